"""The service airflow_worker: a worker of Airflow's executor Celery, which runs tasks on a container of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from homelab.host import Result, accepts_connections, argv
from homelab.model import Container, DatabaseGrant, Endpoint, Health, Service, ServiceContext, Step
from homelab.model.options import Duration, Option
from homelab.paths import bundled_path
from homelab.render import render
from homelab.services.airflow import airflow_of
from homelab.services.airflow_celery import DEFAULT_QUEUE, LONGEST_DRAIN, RESULTS
from homelab.services.airflow_cleanup import TIMER, cleanup
from homelab.services.airflow_dags import PYTHON_PATH
from homelab.services.airflow_environment import HOME, secrets_file, settings_file
from homelab.services.airflow_gate import wait_for_gates
from homelab.services.airflow_platform import SANDBOX, VENV, bundle_trees, dag_bundles, platform_steps
from homelab.services.redis import PORT as REDIS_PORT
from homelab.steps import Directory, File, SystemdUnit, WaitFor

UNIT = "airflow-worker.service"
_LOG_PORT = 8793  # Airflow's default
_AFTER_DRAIN = 30  # seconds for the shutdown of the container after that of the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowWorker(Service):
    """A worker of Airflow's executor Celery, which runs tasks on a container of its own."""

    requires: ClassVar[tuple[str, ...]] = ("airflow", "redis", "analytics")
    uses: ClassVar[tuple[str, ...]] = ("ingestion",)
    minimum_memory: ClassVar[int] = 768
    many: ClassVar[bool] = True
    starts_pipelines: ClassVar[bool] = True
    spreads: ClassVar[bool] = True

    queues: Annotated[
        tuple[Annotated[str, Option(pattern=r"[A-Za-z0-9_.-]{1,100}", expected="a queue's name")], ...],
        Option("Queues of the tasks that it runs.", empty="must have a queue", examples=(["default", "large"],)),
    ] = (DEFAULT_QUEUE,)
    slots: Annotated[int, Option("Number of tasks that it runs in parallel.", low=1, high=64)] = 2
    drain: Annotated[
        Duration,
        Option(
            "Time to complete running tasks before the worker stops.",
            low=Duration("10s"),
            high=Duration(f"{LONGEST_DRAIN}s"),
        ),
    ] = Duration("5m")

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for Airflow with another executor, or in the same container."""
        if any(getattr(each, "executor", "") != "celery" for each in services.get("airflow", ())):
            yield (), "needs `executor: celery` under `airflow:`"
        if "airflow" in neighbours:
            yield (), "cannot be in the container of airflow: move it to another one"

    def stop_seconds(self) -> int:
        """Return the time for the end of its tasks, and for the shutdown after it."""
        return int(self.drain.seconds) + _AFTER_DRAIN

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own the results of the tasks, together with Airflow, and nothing else of the metadata."""
        return (RESULTS,)

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint of the logs, which Airflow reads for its web UI."""
        return (
            Endpoint(
                name="logs",
                port=_LOG_PORT,
                description="logs of Airflow's tasks",
                audience="dependents",
                clients=("airflow",),
                restricted=True,
            ),
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the logs of its tasks."""
        return (HOME,)

    def units(self) -> Sequence[str]:
        """Return the unit of the worker, and the timer that removes old logs."""
        return (UNIT, TIMER)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, configuration, DAGs and unit, with the options of Airflow."""
        inventory, airflow = context.inventory, airflow_of(context.inventory)
        server, redis = inventory.container_with("airflow"), inventory.container_with("redis")
        venv, api_url = airflow.venv(context), airflow.api_url(server)
        bundles = dag_bundles(inventory.pipelines, airflow.dags, has_metadata=False)
        environment = settings_file(context, airflow, bundles, api_url=api_url, worker=True)
        secrets = secrets_file(context, airflow, celery=True, worker=True)
        address = File(
            f"{PYTHON_PATH}/homelab_address.py", bundled_path("templates/airflow/homelab_address.py").read_bytes()
        )
        unit = File(
            f"/etc/systemd/system/{UNIT}",
            render(
                "airflow/airflow.service.j2",
                process="celery worker",
                arguments=f" --concurrency {self.slots} --queues {','.join(self.queues)} "
                f"--celery-hostname celery@{context.container.name}",
                venv=VENV,
                sandbox=SANDBOX,
                ready="",
                stop_seconds=int(self.drain.seconds),
            ),
        )
        return (
            *platform_steps(context, venv, bundles, [Directory(PYTHON_PATH), address, environment, secrets]),
            *bundle_trees(bundles, inventory.pipelines, airflow.dags, [venv]),
            *wait_for_gates(context, SANDBOX),
            _wait(context, redis, "Redis", accepts_connections(redis.address, REDIS_PORT)),
            _wait(context, server, "Airflow's API", airflow.api_probe(server)),
            unit,
            SystemdUnit(UNIT, triggered_by=[unit, venv, address, environment, secrets], settle=0),
            *cleanup(airflow.retention, SANDBOX, []),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the commands for its connections to Redis, and for its server of logs."""
        connections = argv("ss", "-Htn", "state", "established", "dport", "=", f":{REDIS_PORT}")
        return (f"{connections} | grep -q .", f"ss -Htln sport = :{_LOG_PORT} | grep -q .")

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it is connected to Redis, and serves its logs."""
        connected, logs = (answer.ok for answer in answers)
        if not connected:
            return Health(False, "is not connected to Redis")
        slots = f"{self.slots} slots for {', '.join(self.queues)}"
        return Health(logs, slots if logs else "does not serve the logs of its tasks")


def _wait(context: ServiceContext, other: Container, program: str, probe: str) -> WaitFor:
    title = f"{program} of {other.name} answers the worker"
    return WaitFor(title, probe, other.name, context.failed, context.wait_deadline(other))
