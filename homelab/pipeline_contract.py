"""The pipelines' side of the contract with homelab, read from the JSON files that are shipped with their scripts."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from typing import Any

from homelab.paths import bundled_path


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The exit statuses of all scripts, by meaning; pipelines/shared/scripts/contract.py explains them."""

    success: int
    failed: int
    nothing_published: int
    partial: int
    busy: int
    key_refused: int
    build_failed: int
    bad_input: int


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of the Airflow DAG; each is also a command that Airflow's SSH key may run."""

    ingest: str
    build: str
    verify: str


def _read(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bundled_path(path).read_text())
    return found


_CONTRACT = _read("pipelines/shared/scripts/contract.json")
_WEATHER = _read("pipelines/weather/scripts/weather_contract.json")
DAG_ID: str = _WEATHER["dag_id"]
CONNECTION_ID: str = _CONTRACT["connection_id"]
TASKS = Tasks(**_WEATHER["tasks"])
COMMANDS: tuple[str, ...] = astuple(TASKS)
EXIT = ExitStatus(**_CONTRACT["exit_status"])
