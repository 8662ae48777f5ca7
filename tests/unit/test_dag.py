"""The DAG file, loaded with stubs of both series of Airflow; the end-to-end test loads it in the real ones."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from homelab.model.stages import BUILD_DUE, stage_of
from homelab.pipeline_contract import EXIT
from tests.scripts import DAG_ID, SHARED_SCRIPTS, TASKS, WEATHER

DAG_FILE = WEATHER / "dags" / "weather_ingestion_pipeline.py"


class Recorder:
    """A stub of a DAG or an operator, with its arguments and its downstream tasks; `made` has all of them."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, **arguments: Any) -> None:
        self.arguments, self.downstream = arguments, list[Recorder]()
        self.made.append(self)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __rshift__(self, other: Recorder) -> Recorder:
        self.downstream.append(other)
        return other

    def raise_for_status(self, exit_status: int, stderr: bytes, context: Any = None) -> None:
        """As the operator of Airflow: any other status than 0 fails the attempt, which is repeated."""
        if exit_status:
            raise RuntimeError


@dataclass(frozen=True)
class Asset:
    """A stub of Airflow's asset."""

    name: str


class NoRetry(Exception):
    """A stub of AirflowFailException."""


def load(monkeypatch: pytest.MonkeyPatch, series: str, file: Path = DAG_FILE) -> dict[str, Any]:
    names = [
        "airflow",
        "airflow.providers",
        "airflow.providers.ssh",
        "airflow.providers.ssh.operators",
        "airflow.providers.ssh.operators.ssh",
        "airflow.exceptions",
        "airflow.sdk",
        "airflow.sdk.exceptions",
    ]
    modules = {name: ModuleType(name) for name in names}
    modules["airflow.providers.ssh.operators.ssh"].SSHOperator = Recorder  # type: ignore[attr-defined]
    modules["airflow.sdk" if series == "3.3" else "airflow"].DAG = Recorder  # type: ignore[attr-defined]
    modules["airflow.sdk"].Asset = Asset  # type: ignore[attr-defined]
    exceptions = "airflow.sdk.exceptions" if series == "3.3" else "airflow.exceptions"
    modules[exceptions].AirflowFailException = NoRetry  # type: ignore[attr-defined]
    for name, module in modules.items():
        # None makes the import fail, as on 2.11.
        monkeypatch.setitem(sys.modules, name, None if name == "airflow.sdk" and series == "2.11" else module)
    return runpy.run_path(str(file))


@pytest.mark.parametrize(("series", "backoff"), [("3.3", 2.0), ("2.11", True)])
def test_dag_has_its_schedule_and_retries(monkeypatch: pytest.MonkeyPatch, series: str, backoff: float) -> None:
    monkeypatch.delenv("WEATHER_SCHEDULE", raising=False)
    found = load(monkeypatch, series)
    dag = found["dag"]
    assert dag.arguments["schedule"] == "@hourly"
    assert (dag.arguments["catchup"], dag.arguments["max_active_runs"]) == (False, 1)
    retries = dag.arguments["default_args"]
    assert (retries["retries"], retries["retry_delay"]) == (1, timedelta(minutes=5))
    # 2.11 accepts only a bool; for 3.x True means a multiplier of 1, which is no backoff.
    value = retries["retry_exponential_backoff"]
    assert (value, type(value)) == (backoff, type(backoff))


@pytest.mark.parametrize("series", ["3.3", "2.11"])
def test_names_in_the_dag_are_those_of_the_manifest(monkeypatch: pytest.MonkeyPatch, series: str) -> None:
    found = load(monkeypatch, series)
    assert found["dag"].arguments["dag_id"] == DAG_ID
    tasks = {
        task.arguments["task_id"]: task
        for task in found.values()
        if isinstance(task, Recorder) and "task_id" in task.arguments
    }
    commands = {task.arguments["command"]: name for name, task in tasks.items()}
    assert commands == {f"weather.{command}": name for command, name in TASKS.items()}
    connections = {name: task.arguments["ssh_conn_id"] for name, task in tasks.items()}
    assert connections == {name: stage_of(command) for command, name in TASKS.items()}


def test_marts_do_not_wait_for_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    found = load(monkeypatch, "3.3")
    ingest, build, verify = (found[TASKS[name]] for name in ("fetch", "build", "check"))
    assert (ingest.downstream, build.downstream, verify.downstream) == ([build, verify], [], [])
    assert min(task.arguments["cmd_timeout"] for task in (ingest, build)) >= 600
    assert verify.arguments["retries"] == 0, "a retry would report the same"


def test_schedule_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEATHER_SCHEDULE", "*/10 * * * *")
    assert load(monkeypatch, "3.3")["dag"].arguments["schedule"] == "*/10 * * * *"


@pytest.mark.parametrize("series", ["3.3", "2.11"])
def test_with_a_stream_airflow_only_builds(monkeypatch: pytest.MonkeyPatch, series: str) -> None:
    monkeypatch.setenv("WEATHER_STREAM", "yes")
    found = load(monkeypatch, series)
    assert found["dag"].arguments["schedule"] == "@hourly"
    assert TASKS["fetch"] not in found
    assert [found[TASKS[command]].downstream for command in ("build", "check")] == [[], []]


def test_new_rows_start_a_build_by_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEATHER_STREAM", "yes")
    monkeypatch.setenv("WEATHER_BUILD_EVERY", "600")
    monkeypatch.setattr(Recorder, "made", [])
    found = load(monkeypatch, "3.3")
    assert found["dag"].arguments["schedule"] == [Asset("weather_rows")]
    (asks,) = [each.arguments for each in Recorder.made if each.arguments.get("task_id") == "ask_for_new_rows"]
    assert (asks["command"], asks["outlets"]) == (f"weather.{BUILD_DUE}", [Asset("weather_rows")])
    assert (asks["ssh_conn_id"], asks["skip_on_exit_code"]) == (stage_of(BUILD_DUE), EXIT.not_due)
    (dag,) = [each.arguments for each in Recorder.made if each.arguments.get("dag_id") == "weather_new_rows"]
    assert (dag["schedule"], dag["catchup"], dag["max_active_runs"]) == (timedelta(minutes=10), False, 1)


@pytest.mark.parametrize("series", ["3.3", "2.11"])
def test_error_that_a_repetition_meets_again_is_not_repeated(monkeypatch: pytest.MonkeyPatch, series: str) -> None:
    task = load(monkeypatch, series)[TASKS["build"]]
    task.raise_for_status(0, b"")
    for status in (EXIT.bad_input, EXIT.key_refused, EXIT.build_failed):
        with pytest.raises(NoRetry, match="Binder Error"):
            task.raise_for_status(status, b"first\nBinder Error\n")
    for status in (EXIT.failed, EXIT.partial, EXIT.busy):
        with pytest.raises(RuntimeError):
            task.raise_for_status(status, b"")


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "missing.py"], ["sh", "missing"], ["sh", "-c", ". ./missing"], ["sh", "-c", "./missing"]],
)
def test_file_that_is_missing_for_a_moment_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Sequence[str]
) -> None:
    """A deploy replaces the scripts; the next attempt finds them."""
    task = load(monkeypatch, "3.3")[TASKS["build"]]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    with pytest.raises(RuntimeError):
        task.raise_for_status(ended.returncode, ended.stderr)


def test_invalid_option_of_a_script_is_bad_input(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from contract import Parser; Parser().parse_args(['--nonsense'])")
    path = {"PYTHONPATH": str(SHARED_SCRIPTS)}
    ended = subprocess.run([sys.executable, script], env=path, capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT.bad_input
    assert ended.stderr == "error: unrecognized arguments: --nonsense\n"
