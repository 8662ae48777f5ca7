"""The DAG file, read with stand-ins for both series of Airflow; the real ones read it in the end-to-end test."""

from __future__ import annotations

import runpy
import sys
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import ROOT

FILE = ROOT / "pipeline" / "dags" / "weather_ingestion_pipeline.py"


class Recorder:
    """A DAG or an operator: keeps its arguments and what follows it."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.after = arguments, list[Recorder]()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __rshift__(self, other: Recorder) -> Recorder:
        self.after.append(other)
        return other


def read(monkeypatch: pytest.MonkeyPatch, series: str) -> dict[str, Any]:
    names = [
        "airflow",
        "airflow.providers",
        "airflow.providers.ssh",
        "airflow.providers.ssh.operators",
        "airflow.providers.ssh.operators.ssh",
        "airflow.sdk",
    ]
    modules = {name: ModuleType(name) for name in names}
    modules["airflow.providers.ssh.operators.ssh"].SSHOperator = Recorder  # type: ignore[attr-defined]
    modules["airflow.sdk" if series == "3.3" else "airflow"].DAG = Recorder  # type: ignore[attr-defined]
    for name, module in modules.items():
        # None makes the import fail, as it does on 2.11.
        monkeypatch.setitem(sys.modules, name, None if name == "airflow.sdk" and series == "2.11" else module)
    return runpy.run_path(str(FILE))


@pytest.mark.parametrize(("series", "backoff"), [("3.3", 2.0), ("2.11", True)])
def test_the_dag(monkeypatch: pytest.MonkeyPatch, series: str, backoff: float) -> None:
    monkeypatch.delenv("WEATHER_SCHEDULE", raising=False)
    found = read(monkeypatch, series)
    dag, fetch, transform = (found[name] for name in ("dag", "fetch_weather_data", "run_dbt_transformation"))
    check = found["check_every_city"]
    assert dag.arguments["dag_id"] == "weather_ingestion_pipeline"
    assert dag.arguments["schedule"] == "@hourly"
    assert (dag.arguments["catchup"], dag.arguments["max_active_runs"]) == (False, 1)
    retries = dag.arguments["default_args"]
    assert (retries["retries"], retries["retry_delay"]) == (1, timedelta(minutes=5))
    # 2.11 takes nothing but a bool, and 3.x takes True for a multiplier of 1, which is no backoff.
    given = retries["retry_exponential_backoff"]
    assert (given, type(given)) == (backoff, type(backoff))
    for task in (fetch, transform):
        assert task.arguments["ssh_conn_id"] == "analytics"
        assert task.arguments["command"] == task.arguments["task_id"]
        assert task.arguments["cmd_timeout"] >= 600
    assert (check.arguments["command"], check.arguments["retries"]) == ("check_every_city", 0)
    # The marts do not wait for what only fails when a city has failed.
    assert (fetch.after, transform.after, check.after) == ([transform, check], [], [])


def test_the_schedule_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEATHER_SCHEDULE", "*/10 * * * *")
    assert read(monkeypatch, "3.3")["dag"].arguments["schedule"] == "*/10 * * * *"
