"""`homelab pipeline run` and `rebuild`: one run of the DAG, now; the marts anew from all that there is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from homelab.commands.deploy import connect
from homelab.errors import HomelabError
from homelab.host import Host, argv, check
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory, SecretStore
from homelab.progress import Progress
from homelab.runtime.job_progress import POLL_INTERVAL, DbtLog, run_with_progress
from homelab.services.airflow import CLI, DAG, Airflow, in_metadata
from homelab.services.analytics import SCRIPTS, as_analytics

_DEADLINE = 900  # seconds; the DAG's own retry comes after five minutes
_REBUILD = 4 * 3600.0  # seconds; it reads all of the history


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


@dataclass(frozen=True)
class Build:
    """A good build of the marts."""

    models: int
    tests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.models} models built, {self.tests} tests passed, published after {self.seconds:.0f} s"


def run(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts, progress: Progress) -> Run:
    """Trigger the DAG and wait for its end. Raises HomelabError when it fails or does not end in time."""
    container = inventory.container_with("airflow")
    key, _ = secret_store.key_pair("operator")
    run_id = f"homelab__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    started = time.monotonic()
    with connect(container, key, known_hosts) as host:
        with progress.step(container.name, f"asking Airflow to run {DAG}"):
            _known(host)
            check(host, argv(CLI, "dags", "trigger", "--run-id", run_id, DAG), f"triggering {DAG}")
        with (
            connect(inventory.container_with("analytics"), key, known_hosts) as analytics,
            progress.step(container.name, "fetch_weather_data, then run_dbt_transformation") as far,
        ):
            state = _wait(host, run_id, DbtLog(analytics), far)
        tasks = _tasks(host, run_id)
    outcome = Run(run_id, state, time.monotonic() - started, tasks)
    if state != "success":
        raise HomelabError(
            f"The pipeline's run ended as {state}",
            str(outcome),
            f"See the task's log in Airflow's UI, {ui(container)}, user admin.",
        )
    return outcome


def rebuild(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts, progress: Progress) -> Build:
    """Build and publish the marts anew from every raw observation. Raises HomelabError when a model or test fails."""
    container = inventory.container_with("analytics")
    key, _ = secret_store.key_pair("operator")
    command = as_analytics(argv("python", f"{SCRIPTS}/transform.py", "--full-refresh"))
    with connect(container, key, known_hosts) as host, progress.step(container.name, "dbt build --full-refresh") as far:
        built = run_with_progress(
            partial(check, host, command, "rebuilding the marts", timeout=_REBUILD), DbtLog(host), far
        )
    report = json.loads(built.text.splitlines()[-1])
    return Build(report["models_built"], report["tests_passed"], report["seconds"])


def ui(container: Container) -> str:
    """The address of Airflow's web UI."""
    airflow = container.services["airflow"]
    assert isinstance(airflow, Airflow)  # noqa: S101 - as the inventory's reader has made it
    return f"http://{container.address}:{airflow.port}"


def succeeded_lately(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts) -> bool:
    """Whether a run has ended well within the last hour."""
    container = inventory.container_with("airflow")
    key, _ = secret_store.key_pair("operator")
    with connect(container, key, known_hosts) as host:
        return (
            check(
                host,
                in_metadata(
                    f"select count(*) > 0 from dag_run where dag_id = '{DAG}' and state = 'success' "
                    "and end_date > now() - interval '1 hour'"
                ),
                "asking for the last runs",
            ).text
            == "t"
        )


def _known(host: Host) -> None:
    """Wait until Airflow has read the DAG, which it does a while after it has come up."""
    until = time.monotonic() + 120
    asked = in_metadata(f"select 1 from dag where dag_id = '{DAG}'")
    while host.run(asked).text != "1":
        if time.monotonic() > until:
            errors = host.run(in_metadata("select stacktrace from import_error")).text
            raise HomelabError(
                f"Airflow does not know the DAG {DAG}",
                errors[-1500:] or "It has not been read yet.",
                f"See `homelab logs {host.name}`, then run `homelab deploy`.",
            )
        time.sleep(0.5)


def _tasks(host: Host, run_id: str) -> dict[str, str]:
    """The state of each task of a run."""
    found: dict[str, str] = json.loads(
        check(
            host,
            in_metadata(
                "select coalesce(json_object_agg(task_id, state order by task_id), '{}') from task_instance where "
                f"run_id = '{run_id}'"
            ),
            "reading the tasks' states",
        ).text
    )
    return found


def _wait(host: Host, run_id: str, dbt: Callable[[], str], far: Callable[[str], None]) -> str:
    """The run's state at its end; until then it is told which task runs, and how far dbt is."""
    until, look = time.monotonic() + _DEADLINE, time.monotonic() + POLL_INTERVAL
    asked = in_metadata(f"select state from dag_run where run_id = '{run_id}'")
    while (state := host.run(asked).text) not in ("success", "failed"):
        if time.monotonic() > until:
            raise HomelabError(
                "The pipeline's run has not ended in time",
                f"It is {state or 'not there'} after {_DEADLINE} s.",
                "See `homelab status`, and the run in Airflow's UI.",
            )
        if time.monotonic() >= look:
            running = [task for task, each in _tasks(host, run_id).items() if each == "running"]
            if running:
                far(" ".join(filter(None, [*running, dbt() if "run_dbt_transformation" in running else ""])))
            look = time.monotonic() + POLL_INTERVAL
        time.sleep(0.3)
    return state
