"""The pipelines' side of the contract with homelab, read from the contract.json that is shipped with their scripts."""

from __future__ import annotations

import json
from dataclasses import dataclass
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
    not_due: int


_CONTRACT: dict[str, Any] = json.loads(bundled_path("pipelines/shared/scripts/contract.json").read_text())
EXIT = ExitStatus(**_CONTRACT["exit_status"])
CLICKHOUSE_DATABASES: dict[str, Any] = _CONTRACT["clickhouse_databases"]  # see contract.py
CLICKHOUSE_SETTINGS: dict[str, str] = _CONTRACT["clickhouse_settings"]
S3_SECRET: dict[str, str] = _CONTRACT["s3_secret"]
