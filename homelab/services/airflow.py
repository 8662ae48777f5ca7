"""The service Airflow, which runs the pipeline over SSH."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from homelab.distributions import Distribution
from homelab.host import Result
from homelab.model import (
    AirflowObjects,
    Container,
    DatabaseGrant,
    Endpoint,
    Health,
    Inventory,
    Service,
    ServiceContext,
    Step,
)
from homelab.model.airflow_objects import Connections, Pools, Variables, combined
from homelab.model.options import Duration, Option
from homelab.render import render
from homelab.services import airflow_health, airflow_packages
from homelab.services.airflow_celery import RESULTS, celery_left, missing_for_celery, old_results
from homelab.services.airflow_cleanup import TIMER, cleanup, old_rows
from homelab.services.airflow_environment import HOME, SETTINGS, fernet_key, secrets_file, settings_file
from homelab.services.airflow_failures import failed_tasks, failed_tasks_program
from homelab.services.airflow_gate import wait_for_gates
from homelab.services.airflow_metadata import (
    DATABASE,
    DATABASE_ENVIRONMENT,
    ROLE,
    admin_user,
    in_metadata,
    metrics,
    migration,
    no_downgrade,
)
from homelab.services.airflow_packages import lock_name, venv_lock
from homelab.services.airflow_platform import SANDBOX, VENV, bundle_trees, dag_bundles, platform_steps
from homelab.services.airflow_rows import MetadataRows
from homelab.services.airflow_tables import secrets_of
from homelab.services.lab_certificates import CA_FILE, certificate_path, server_certificate
from homelab.services.postgres_client import client_file
from homelab.steps import File, SystemdUnit, Venv, WaitFor

_READY = "/usr/local/sbin/homelab-airflow-ready"
# The processes of each series, and the path of its health report.
_PROCESSES = {"3.3": ("api-server", "dag-processor", "scheduler"), "2.11": ("webserver", "scheduler")}
# The scheduler's log server would listen on all addresses, and LocalExecutor does not need it.
_ARGUMENTS = {"scheduler": " --skip-serve-logs"}
_HEALTH = {"3.3": "/api/v2/monitor/health", "2.11": "/health"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow(Service):
    """Apache Airflow: runs the pipeline over SSH, and has a web UI."""

    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")
    uses: ClassVar[tuple[str, ...]] = ("ingestion", "redis")
    minimum_memory: ClassVar[int] = 1024
    starts_pipelines: ClassVar[bool] = True

    version: Annotated[Literal["3.3", "2.11"], Option("Series of Airflow; 2.11 runs on Python up to 3.12.")] = "3.3"
    # Lower ports need a capability.
    port: Annotated[int, Option("Port of the web UI.", low=1024, high=65535)] = 8080
    parallelism: Annotated[int, Option("Number of tasks that may run in parallel.", low=1, high=256)] = 4
    executor: Annotated[
        Literal["local", "celery"], Option("Place of the tasks: this container, or those with `airflow_worker`.")
    ] = "local"
    retention: Annotated[
        Duration,
        Option("Time for which runs and logs of tasks are kept; the last scheduled run always.", low=Duration("1d")),
    ] = Duration("90d")
    dags: Annotated[Path | None, Option("Folder with DAGs of your own.", examples=("dags",))] = None
    packages: Annotated[
        tuple[
            Annotated[str, Option(pattern=airflow_packages.REQUIREMENT, expected="a package such as humanize==4.17.0")],
            ...,
        ],
        Option("Further Python packages for DAGs, locked by `homelab airflow lock`.", examples=(["humanize"],)),
    ] = ()
    connections: Connections = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    pools: Pools = field(default_factory=dict)

    def unsupported_options(self, distribution: Distribution) -> Iterator[tuple[str, str]]:
        """Return an error for 2.11 on a distribution with a Python newer than 3.12."""
        if self.version == "2.11" and distribution.python > (3, 12):
            yield (
                "version",
                (
                    f"Airflow 2.11 runs on Python up to 3.12, and {distribution.alias} has "
                    f'{".".join(map(str, distribution.python))}: write "3.3", or another template'
                ),
            )

    def option_errors(self) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for a missing folder of DAGs, and for packages at other versions than those of Airflow."""
        if self.dags and not self.dags.is_dir():
            yield ("dags",), f"{self.dags} is not a folder: create it, or correct the path"
        for index, error in airflow_packages.pin_errors(self.lock, self.packages):
            yield ("packages", index), error
        if self.uses_celery and not self._has_api_server:
            yield (
                ("executor",),
                f"Airflow {self.version} has no API for tasks, so its workers would need all rights in the metadata: "
                'write `version: "3.3"`, or `executor: local`',
            )

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterator[tuple[Sequence[str | int], str]]:
        """Return an error for Celery without a queue or without a worker for tasks that name no queue."""
        if self.uses_celery:
            yield from ((("executor",), error) for error in missing_for_celery(services))

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own the metadata, and read the observations."""
        return (
            DatabaseGrant(DATABASE, ROLE, "own"),
            DatabaseGrant("project_data", ROLE, "read", "raw"),
            *([RESULTS] if self.uses_celery else []),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint of the web UI; with Celery, the workers use it over TLS."""
        return (
            Endpoint(
                name="web",
                port=self.port,
                description="Airflow's web UI",
                audience="lan",
                protocol="http",
                tls=self.uses_celery,
                health_path=_HEALTH[self.version],
                web_ui="Airflow",
                credentials=("airflow-admin",),
            ),
        )

    def airflow_objects(self) -> AirflowObjects:
        """Return the connections, variables and pools of its options."""
        return AirflowObjects(connections=self.connections, variables=self.variables, pools=self.pools)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the queries for its scheduler, DAGs and failed tasks: its container can read the metadata already."""
        return {"airflow": metrics(), "airflow-failures": failed_tasks(SANDBOX, f"{HOME}/logs")}

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the logs of the tasks."""
        return (HOME,)

    def units(self) -> Sequence[str]:
        """Return one unit for each process, and the timer that removes old runs and logs."""
        return (*self._process_units, TIMER)

    @property
    def _process_units(self) -> Sequence[str]:
        return tuple(f"airflow-{process}.service" for process in _PROCESSES[self.version])

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, configuration, metadata, admin user, units and DAG."""
        pipelines = context.inventory.pipelines
        venv, bundles = self.venv(context), dag_bundles(pipelines, self.dags)
        certificate = [server_certificate(context, "airflow", SANDBOX.user)] if self.uses_celery else []
        environment = settings_file(context, self, bundles, api_url=self.api_url(context.container))
        secrets = secrets_file(context, self, celery=self.uses_celery)
        postgres = context.inventory.container_with("postgres")
        objects = combined(each for _, each in context.inventory.airflow_objects())
        migrated = migration(self.version, venv)
        reachable = WaitFor(
            f"{postgres.name} accepts airflow_admin",
            in_metadata("select 1"),
            postgres.name,
            context.failed,
            context.wait_deadline(postgres),
            early=True,
        )
        changes = [venv, *certificate, environment, secrets, migrated]
        web_server, *others = self._units(changes, reachable, self.api_url(context.container))
        admin = [admin_user(context, migrated, self._has_api_server)]
        early, late = (admin, []) if self._has_api_server else ([], admin)
        client = client_file(context, DATABASE_ENVIRONMENT, DATABASE, ROLE)
        files = [*self._executor_changes(), environment, secrets, failed_tasks_program(), client]
        return (
            *self._no_downgrade(postgres, known=False),
            *platform_steps(context, venv, bundles, files, subfolders=not self._has_api_server),
            *certificate,
            reachable,
            *self._no_downgrade(postgres, known=True),
            migrated,
            *web_server,  # the next steps run while it starts; the scheduler waits for it
            *early,
            MetadataRows(objects, context.user_secrets(secrets_of(objects)), fernet_key(context)),
            *bundle_trees(bundles, pipelines, self.dags, [venv, migrated]),
            # The scheduler starts a run immediately; if that failed, its retry would start five minutes later.
            *wait_for_gates(context, SANDBOX),
            *chain.from_iterable(others),
            *cleanup(self.retention, SANDBOX, [migrated], list(self._old_rows())),
            *late,
        )

    def venv(self, context: ServiceContext) -> Venv:
        """Return the step for the venv of Airflow and its workers."""
        return Venv(VENV, venv_lock(self.lock, self.packages, context.inventory.path.parent))

    @property
    def lock(self) -> str:
        """The name of the lock of its venv."""
        return lock_name(self.version, self.executor)

    @property
    def uses_celery(self) -> bool:
        """True if workers run the tasks."""
        return self.executor == "celery"

    def api_url(self, container: Container) -> str:
        """Return the address of the API for the tasks; workers verify it by the lab's CA."""
        host = container.address if self.uses_celery else "127.0.0.1"
        return f"{'https' if self.uses_celery else 'http'}://{host}:{self.port}"

    def api_probe(self, container: Container) -> str:
        """Return the command that succeeds when the API for workers answers."""
        return airflow_health.report(f"{self.api_url(container)}{_HEALTH[self.version]}", CA_FILE)

    def _executor_changes(self) -> Iterator[Step]:
        if self._has_api_server and not self.uses_celery:
            yield celery_left(SETTINGS, "airflow-scheduler.service")

    def _old_rows(self) -> Iterator[str]:
        yield old_rows(self.version, VENV)
        if self.uses_celery:
            yield old_results(VENV)

    def _no_downgrade(self, postgres: Container, *, known: bool) -> Iterator[Step]:
        if not self._has_api_server:
            yield no_downgrade(self.version, postgres, known=known)

    @property
    def _has_api_server(self) -> bool:
        return "api-server" in _PROCESSES[self.version]

    def _units(self, triggers: Sequence[Step], reachable: WaitFor, api_url: str) -> Iterator[Sequence[Step]]:
        """Yield the steps of each process, those of the web server first; a change of `triggers` restarts it.

        So does a wait for the database, except for the web server: all others end some seconds after it went away, and
        until then systemd has them as active.
        """
        # From Airflow 3 on, tasks use the API server, so the scheduler starts only after it answers.
        ca_file, url = CA_FILE if self.uses_celery else "", f"{api_url}{_HEALTH[self.version]}"
        ready = File(_READY, render("airflow/ready.j2", url=url, ca_file=ca_file), mode=0o755)
        for process, unit in zip(_PROCESSES[self.version], self._process_units, strict=True):
            waits_for_api = self._has_api_server and process == "scheduler"
            text = render(
                "airflow/airflow.service.j2",
                process=process,
                arguments=self._arguments(process),
                venv=VENV,
                sandbox=SANDBOX,
                stop_seconds=30,
                ready=_READY if waits_for_api else "",
            )
            file = File(f"/etc/systemd/system/{unit}", text)
            # A faulty process fails only after seconds, so the health check at the end finds it.
            waits = [] if unit == self._process_units[0] else [reachable]
            running = SystemdUnit(unit, triggered_by=[file, *waits, *triggers], settle=0)
            yield (*([ready] if waits_for_api else []), file, running)

    def _arguments(self, process: str) -> str:
        if process == "api-server" and self.uses_celery:
            file = certificate_path("airflow")
            return f" --ssl-cert {file} --ssl-key {file}"
        return _ARGUMENTS.get(process, "")

    def health_probes(self) -> Sequence[str]:
        """Return the commands for its health report, its import errors, and its units' starts."""
        scheme, ca_file = ("https", CA_FILE) if self.uses_celery else ("http", "")
        url = f"{scheme}://127.0.0.1:{self.port}{_HEALTH[self.version]}"
        return airflow_health.probes(url, self._process_units, ca_file)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if its processes have a heartbeat, and it can import all DAGs."""
        return airflow_health.assess(answers)


def airflow_of(inventory: Inventory) -> Airflow:
    """Return the service Airflow of an inventory. Raises InputError if no container has it."""
    service = inventory.container_with("airflow").services["airflow"]
    if not isinstance(service, Airflow):
        raise TypeError(f"{type(service).__name__} has the name of Airflow")
    return service
