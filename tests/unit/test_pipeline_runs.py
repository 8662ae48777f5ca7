"""The wait for a run of the pipeline: its progress, its failures, and Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from homelab.errors import INTERRUPTED, HomelabError, InputError, Interrupted
from homelab.host import ConnectionLost, Result
from homelab.inventory import load
from homelab.model import Container
from homelab.paths import bundled_path
from homelab.progress import SilentProgress
from homelab.runtime import job_progress, pipeline_runs
from homelab.runtime.deployed_pipelines import deployed_pipeline
from homelab.runtime.pipeline_runs import Run, run_pipeline
from homelab.services.airflow_metadata import CLI
from tests.support import LocalHost, make_session

WEATHER = deployed_pipeline(load([bundled_path("inventory.yaml")]), "weather")
FETCH, BUILD, VERIFY = "fetch_weather_data", "run_dbt_transformation", "verify_ingestion"


def dbt_line(text: str) -> str:
    return json.dumps({"data": {}, "info": {"level": "info", "msg": text, "ts": "2026-11-27T12:09:14.20Z"}}) + "\n"


START = dbt_line("36 of 36 START test unique_cities_city ........................ [RUN]")
OLD = dbt_line("36 of 36 PASS unique_cities_city ...................... [PASS in 0.08s]")
NEW = dbt_line("3 of 36 OK created sql incremental model main.weather_daily .. [OK in 0.3s]") + dbt_line(
    "4 of 36 START test accepted_range ............................. [RUN]"
)
LOG_33 = "\n".join(
    json.dumps(entry)
    for entry in (
        {"level": "info", "event": "Running command: fetch_weather_data", "logger": "airflow.providers.ssh.hooks.ssh"},
        {"level": "warning", "event": "error: the key is refused", "logger": "airflow.providers.ssh.hooks.ssh.SSHHook"},
        {"level": "warning", "event": "deprecated", "logger": "py.warnings"},
        {"level": "error", "event": "Task failed with exception", "logger": "task"},
    )
)
LOG_211 = """[2026-11-26T12:00:00.000+0000] {ssh.py:504} INFO - Running command: fetch_weather_data
[2026-11-26T12:00:01.000+0000] {ssh.py:561} WARNING - error: the key is refused
[2026-11-26T12:00:01.000+0000] {taskinstance.py:3310} ERROR - Task failed with exception"""
WRONG_COLUMN = {
    "status": "failed",
    "problems": [
        {"node": "test.analytics_project.unique_x.1a2b", "status": "warn", "message": "a warning"},
        {
            "node": "model.analytics_project.stg_weather",
            "status": "error",
            "message": 'Binder Error: no "tmp"\n  LINE 1',
        },
    ],
}


def state(name: str, tasks: dict[str, Any] | None = None, ahead: str | None = None) -> Result:
    found = {task: each if isinstance(each, list) else [each, 1] for task, each in (tasks or {}).items()}
    return Result("", 0, json.dumps({"state": name, "tasks": found, "ahead": ahead}).encode())


@dataclass
class Containers(LocalHost):
    """Both containers in one: each query of the run takes the next answer, and the last one stays."""

    answers: list[Result | BaseException | Callable[[], None]] = field(default_factory=list)
    log: str = LOG_33
    dbt_log: str = OLD + START
    report: str = json.dumps({"status": "success", "problems": []})
    active: str = ""
    disks: str = ""
    without_space: str = ""
    commands: list[str] = field(default_factory=list)

    def __enter__(self) -> Containers:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        self.commands.append(command)
        fixed = {
            "df -P -k": self.without_space,
            "df -P": self.disks,
            "dbt.log": self.dbt_log,
            "last_build.json": self.report,
            "attempt=": self.log,
            "starts_with": self.active,
            "from dag where": "1",
            f"{CLI} dags trigger": "",
        }
        for part, text in fixed.items():
            if part in command:
                return Result(command, 0, text.encode())
        assert "task_instance" in command, command
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(found, BaseException):
            raise found
        assert isinstance(found, Result)
        return found


@dataclass
class Notes(SilentProgress):
    notes: list[str] = field(default_factory=list)

    def note(self, host: str, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_runs, "POLL_INTERVAL", 0)
    monkeypatch.setattr(pipeline_runs.time, "sleep", lambda _: None)


def run(containers: Containers) -> tuple[Run, list[str]]:
    inventory, notes = load([bundled_path("inventory.yaml")]), Notes()

    def connect(container: Container, *_: object) -> Containers:
        return containers

    try:
        return run_pipeline(make_session(inventory, progress=notes, connector=connect)), notes.notes
    except HomelabError as error:
        error.add_note("\n".join(notes.notes))
        raise


def notes_of(error: BaseException) -> str:
    return "\n".join(error.__notes__)


def triggered(containers: Containers) -> bool:
    return any("dags trigger" in command for command in containers.commands)


def test_progress_names_the_running_task_and_the_last_node_of_dbt() -> None:
    host = Containers(
        answers=[
            state("queued"),
            state("running", {FETCH: "running"}),
            state("running", {FETCH: "success", BUILD: "running"}),
            state("success"),
        ]
    )
    dbt, reported = job_progress.DbtLog(host, WEATHER.read_data), list[str]()
    assert dbt() == "", "the log of the previous build"
    host.dbt_log += NEW
    follower = pipeline_runs._Follower([host], host, WEATHER, "r", print)
    assert follower.wait(dbt, reported.append).state == "success"
    assert reported == [FETCH, f"{BUILD} 3 of 36 OK created sql incremental model main.weather_daily"]


@pytest.mark.parametrize("log", [LOG_33, LOG_211])
def test_message_of_the_script_is_shown_when_an_attempt_fails(log: str) -> None:
    containers = Containers(
        log=log,
        answers=[
            state("running", {FETCH: "running"}),
            state("running", {FETCH: ["up_for_retry", 1]}),
            state("running", {FETCH: ["up_for_retry", 1]}),
            state("success", {FETCH: ["success", 2]}),
        ],
    )
    done, notes = run(containers)
    assert done.state == "success"
    assert notes == [f"{FETCH} failed; Airflow tries it again in some minutes: error: the key is refused"]


def test_failed_model_is_named_with_the_message_of_dbt() -> None:
    containers = Containers(
        report=json.dumps(WRONG_COLUMN),
        answers=[state("failed", {FETCH: "success", BUILD: "failed", VERIFY: "success"})],
    )
    with pytest.raises(HomelabError, match="it ended as failed") as caught:
        run(containers)
    assert f'{BUILD}: model stg_weather: Binder Error: no "tmp" LINE 1' in caught.value.details
    assert f"{BUILD} failed: model stg_weather: Binder Error" in notes_of(caught.value)
    assert "`homelab pipeline run weather`" in caught.value.resolution


def test_queued_run_names_the_run_before_it() -> None:
    containers = Containers(
        answers=[state("queued", ahead="scheduled__1"), state("queued", ahead="scheduled__1"), state("success")]
    )
    _, notes = run(containers)
    assert notes == ["queued behind the run scheduled__1, which has to end first"]


@pytest.mark.parametrize(
    ("answer", "details"),
    [
        (state("queued"), "It is queued after 0 s, and continues in Airflow."),
        (
            state("running", {FETCH: "success", BUILD: "running", VERIFY: None}),
            f"It is running after 0 s, and continues in Airflow: {BUILD} running, {VERIFY} waiting.",
        ),
    ],
)
def test_run_that_does_not_end_ends_the_wait(monkeypatch: pytest.MonkeyPatch, answer: Result, details: str) -> None:
    monkeypatch.setattr(pipeline_runs, "_DEADLINE", 0)
    ended = HomelabError("the test ends a wait without an end", "")
    with pytest.raises(HomelabError, match="Cannot wait longer for the pipeline run") as caught:
        run(Containers(answers=[*[answer] * 50, ended]))
    assert caught.value.details == details


def test_short_silence_of_postgresql_does_not_end_the_wait() -> None:
    silent = Result("", 2, b"", b"connection refused")
    containers = Containers(answers=[state("running"), *[silent] * 30, ConnectionLost("lost"), state("success")])
    assert run(containers)[0].state == "success"
    assert containers.reconnected == 1


def test_long_silence_ends_the_wait_and_names_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_runs, "_PATIENCE", 0.01)
    monkeypatch.setattr(pipeline_runs.time, "sleep", lambda _, sleep=pipeline_runs.time.sleep: sleep(0.01))
    with pytest.raises(HomelabError, match="which continues in Airflow: PostgreSQL does not answer") as caught:
        run(Containers(answers=[Result("", 2, b"", b"connection refused")]))
    assert "connection refused" in caught.value.details


def test_interrupted_run_continues_and_the_next_command_follows_it() -> None:
    containers = Containers(answers=[state("running"), KeyboardInterrupt(), state("running"), state("success")])
    with pytest.raises(Interrupted, match=r"the run homelab__\S+ continues in Airflow") as caught:
        run(containers)
    assert caught.value.exit_code == INTERRUPTED
    assert "`homelab pipeline run weather` follows this run" in caught.value.resolution
    assert triggered(containers)
    containers.commands.clear()
    containers.active = "homelab__1"
    done, notes = run(containers)
    assert (done.run_id, done.state, triggered(containers)) == ("homelab__1", "success", False)
    assert notes == ["following homelab__1, which has not ended yet"]


def test_full_disk_is_the_cause_that_is_named() -> None:
    with pytest.raises(HomelabError) as caught:
        run(Containers(disks="/ 100%\n", answers=[state("failed", {FETCH: "failed"})]))
    assert caught.value.brief.startswith("Cannot complete the pipeline run: the disk of postgres-data and ")
    assert "the disk of analytics-platform is full (/ 100%): give it a larger `disk`" in caught.value.details
    assert "it ended as failed" in caught.value.details


def test_run_is_not_started_while_a_disk_has_no_space() -> None:
    """Airflow would repeat the failed task after five minutes."""
    containers = Containers(without_space="/ 100%\n", answers=[state("success")])
    with pytest.raises(HomelabError) as caught:
        run(containers)
    assert caught.value.brief.startswith("Cannot run the pipeline: the disk of postgres-data and ")
    assert "the disk of analytics-platform is full (/ 100%): give it a larger `disk`" in caught.value.details
    assert not triggered(containers)


def test_full_disk_is_no_cause_of_bad_input() -> None:
    with pytest.raises(InputError, match="no container has it"):
        run(Containers(disks="/ 100%\n", answers=[InputError("Cannot use the service: no container has it")]))


def test_run_id_of_a_dag_is_quoted() -> None:
    """A DAG may start a run with any id, also one with homelab's prefix."""
    assert "run_id = 'homelab__''; select 1'" in pipeline_runs._state_query("prices", "homelab__'; select 1").sql
