"""What a person sees while the pipeline works in the containers: the task that runs, and how far dbt is."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial

import pytest

from homelab.host import Result
from homelab.runtime import job_progress, pipeline_runs
from tests.support import LocalHost

START = "12:09:14.20 [info ] [Thread-1 (]: 36 of 36 START test unique_cities_city ........................ [RUN]\n"
OLD = "12:08:14.28 [info ] [Thread-1 (]: 36 of 36 PASS unique_cities_city ...................... [PASS in 0.08s]\n"
NEW = (
    "12:09:14.31 [info ] [Thread-2 (]: 3 of 36 OK created sql incremental model main.weather_daily .. [OK in 0.3s]\n"
    "12:09:14.35 [info ] [Thread-2 (]: 4 of 36 START test plausible ................................. [RUN]\n"
)


@dataclass
class Airflow(LocalHost):
    """Two containers in one: each look at the run finds the next state; dbt's log as it is."""

    states: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    log: str = OLD + START

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        if "dbt.log" in command:
            return Result(command, 0, self.log.encode())
        if "task_instance" in command:
            return Result(command, 0, json.dumps(self.states[0][1]).encode())
        if len(self.states) > 1:
            self.states.pop(0)
        return Result(command, 0, self.states[0][0].encode())


def test_the_task_that_runs_and_the_node_that_dbt_has_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_runs, "POLL_INTERVAL", 0)
    fetch, build = "fetch_weather_data", "run_dbt_transformation"
    host = Airflow(
        states=[
            ("queued", {}),
            ("queued", {}),
            ("running", {fetch: "running"}),
            ("running", {fetch: "success", build: "running"}),
            ("success", {}),
        ]
    )
    dbt, told = job_progress.DbtLog(host), list[str]()
    assert dbt() == "", "the build before this one"
    host.log += NEW
    assert pipeline_runs._wait(host, "r", dbt, told.append) == "success"
    assert told == [fetch, f"{build} 3 of 36 OK created sql incremental model main.weather_daily"]


def test_what_goes_wrong_over_there_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    told = list[str]()
    done = job_progress.run_with_progress(partial(LocalHost().run, "sleep 0.2; exit 3"), lambda: "half", told.append)
    assert (done.status, told) == (3, ["half"])
    with pytest.raises(ZeroDivisionError):
        job_progress.run_with_progress(partial(LocalHost().run, "sleep 0.2"), lambda: str(1 // 0), told.append)
