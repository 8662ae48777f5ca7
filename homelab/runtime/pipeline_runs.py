"""Runs of the pipeline's DAG in Airflow."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from homelab.errors import HomelabError
from homelab.host import Host, argv, check, expected_format
from homelab.model import Container
from homelab.pipeline_contract import DAG_ID, TASKS
from homelab.runtime.job_progress import POLL_INTERVAL, DbtLog
from homelab.runtime.session import Session
from homelab.services.airflow import Airflow
from homelab.services.airflow_metadata import CLI, in_metadata

_DEADLINE = 900  # seconds; the DAG's own retry comes after five minutes
_KNOWN_WITHIN = 120  # seconds that Airflow has to read a DAG after its start


@dataclass(frozen=True)
class Run:
    """A finished run of the DAG; `tasks` maps each task to its state."""

    run_id: str
    state: str
    seconds: float
    tasks: dict[str, str]

    def __str__(self) -> str:
        tasks = ", ".join(f"{task} {state}" for task, state in self.tasks.items())
        return f"{self.run_id}: {self.state} after {self.seconds:.0f} s ({tasks})"


def run_pipeline(session: Session) -> Run:
    """Trigger the DAG and wait for its end. Raises HomelabError if it fails or misses the deadline."""
    container = session.inventory.container_with("airflow")
    run_id = f"homelab__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    started = time.monotonic()
    with session.connect(container) as host:
        with session.progress.step(container.name, f"trigger {DAG_ID}"):
            _await_dag(host)
            check(host, argv(CLI, "dags", "trigger", "--run-id", run_id, DAG_ID), f"trigger {DAG_ID}")
        with (
            session.connect_to("analytics") as analytics,
            session.progress.step(container.name, f"{TASKS.ingest}, then {TASKS.build}") as report,
        ):
            state = _wait(host, run_id, DbtLog(analytics), report)
        tasks = _tasks(host, run_id)
    run = Run(run_id, state, time.monotonic() - started, tasks)
    if state != "success":
        raise HomelabError(
            f"Cannot complete the pipeline run: it ended as {state}",
            str(run),
            f"See the task's log in Airflow's web UI, {ui(container)}, user admin.",
        )
    return run


def ui(container: Container) -> str:
    """Return the address of Airflow's web UI."""
    airflow = container.services["airflow"]
    assert isinstance(airflow, Airflow)  # noqa: S101 - the registry has made it
    return f"http://{container.address}:{airflow.port}"


def succeeded_lately(session: Session) -> bool:
    """Return True if a run has succeeded within the last hour. Raises HomelabError."""
    query = in_metadata(
        f"select count(*) > 0 from dag_run where dag_id = '{DAG_ID}' and state = 'success' "
        "and end_date > now() - interval '1 hour'"
    )
    with session.connect_to("airflow") as host:
        return check(host, query, "read the last runs").text == "t"


def _await_dag(host: Host) -> None:
    """Wait until Airflow has read the DAG, some time after its start."""
    deadline = time.monotonic() + _KNOWN_WITHIN
    query = in_metadata(f"select 1 from dag where dag_id = '{DAG_ID}'")
    while host.run(query).text != "1":
        if time.monotonic() > deadline:
            errors = host.run(in_metadata("select stacktrace from import_error")).text
            raise HomelabError(
                f"Cannot run the pipeline: Airflow does not know the DAG {DAG_ID}",
                errors[-1500:] or "Airflow has not read it yet.",
                f"See `homelab logs {host.name}`, then run `homelab deploy`.",
            )
        time.sleep(0.5)


def _tasks(host: Host, run_id: str) -> dict[str, str]:
    """Return the state of each task of a run."""
    query = in_metadata(
        "select coalesce(json_object_agg(task_id, state order by task_id), '{}') from task_instance where "
        f"run_id = '{run_id}'"
    )
    answer = check(host, query, "read the states of the tasks").text
    with expected_format(host.name, "read the states of the tasks"):
        return {str(task): str(state) for task, state in json.loads(answer).items()}


def _wait(host: Host, run_id: str, dbt: Callable[[], str], report: Callable[[str], None]) -> str:
    """Return the run's state at its end; report the running task and dbt's progress until then."""
    deadline, next_report = time.monotonic() + _DEADLINE, time.monotonic() + POLL_INTERVAL
    query = in_metadata(f"select state from dag_run where run_id = '{run_id}'")
    while (state := host.run(query).text) not in ("success", "failed"):
        if time.monotonic() > deadline:
            raise HomelabError(
                "Cannot wait longer for the pipeline run: it has not ended",
                f"It is {state or 'missing'} after {_DEADLINE} s.",
                "See `homelab status`, and the run in Airflow's web UI.",
            )
        if time.monotonic() >= next_report:
            running = [task for task, each in _tasks(host, run_id).items() if each == "running"]
            if running:
                report(" ".join(filter(None, [*running, dbt() if TASKS.build in running else ""])))
            next_report = time.monotonic() + POLL_INTERVAL
        time.sleep(0.3)
    return state
