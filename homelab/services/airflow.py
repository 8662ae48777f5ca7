"""The service Airflow, which runs the pipeline over SSH."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from homelab.distributions import Distribution
from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import (
    AirflowObjects,
    Container,
    DatabaseGrant,
    Endpoint,
    Health,
    Pipeline,
    Service,
    ServiceContext,
    Step,
)
from homelab.model.airflow_objects import Connections, Pools, Variables, combined
from homelab.model.options import Duration, Option
from homelab.paths import bundled_path
from homelab.pipelines.container_steps import part_of
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services import airflow_dags, airflow_health, airflow_packages
from homelab.services.airflow_cleanup import TIMER, cleanup
from homelab.services.airflow_dags import DagBundles
from homelab.services.airflow_environment import (
    HOME,
    SECRETS,
    SETTINGS,
    database_file,
    fernet_key,
    secrets_file,
    settings_file,
)
from homelab.services.airflow_failures import failed_tasks, failed_tasks_program
from homelab.services.airflow_gate import FOLDER, KEY, known_hosts_file, wait_for_gates
from homelab.services.airflow_metadata import CLI, admin_user, in_metadata, metrics, migration
from homelab.services.airflow_packages import venv_lock
from homelab.services.airflow_rows import MetadataRows
from homelab.services.airflow_tables import secrets_of
from homelab.steps import Directory, File, Packages, Refuse, SystemdUnit, User, UvInstall, Venv, WaitFor

_VENV = "/opt/airflow/venv"
_READY = "/usr/local/sbin/homelab-airflow-ready"
SANDBOX = Sandbox("airflow", (HOME,), (SETTINGS, SECRETS), ("AIRFLOW__FAB__UPDATE_FAB_PERMS",))

# The processes of each series, and the path of its health report.
_PROCESSES = {"3.3": ("api-server", "dag-processor", "scheduler"), "2.11": ("webserver", "scheduler")}
# The scheduler's log server would listen on all addresses, and LocalExecutor does not need it.
_ARGUMENTS = {"scheduler": " --skip-serve-logs"}
_HEALTH = {"3.3": "/api/v2/monitor/health", "2.11": "/health"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow(Service):
    """Apache Airflow: runs the pipeline over SSH, and has a web UI."""

    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")
    uses: ClassVar[tuple[str, ...]] = ("ingestion",)
    minimum_memory: ClassVar[int] = 1024

    version: Annotated[Literal["3.3", "2.11"], Option("Series of Airflow; 2.11 runs on Python up to 3.12.")] = "3.3"
    # Lower ports need a capability.
    port: Annotated[int, Option("Port of the web UI.", low=1024, high=65535)] = 8080
    parallelism: Annotated[int, Option("Number of tasks that may run in parallel.", low=1)] = 4
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
        for index, error in airflow_packages.pin_errors(self.version, self.packages):
            yield ("packages", index), error

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own the metadata, and read the observations."""
        return (
            DatabaseGrant("airflow_metadata", "airflow_admin", "own"),
            DatabaseGrant("project_data", "airflow_admin", "read", "raw"),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint of the web UI."""
        return (
            Endpoint(
                name="web",
                port=self.port,
                description="Airflow's web UI",
                audience="lan",
                protocol="http",
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
        uv = bundled_path("pipelines/shared/requirements/uv.txt")
        venv = Venv(_VENV, venv_lock(self.version, self.packages, context.inventory.path.parent))
        bundles = self._bundles(context.inventory.pipelines)
        environment, secrets = settings_file(context, self, bundles), secrets_file(context, self)
        postgres = context.inventory.container_with("postgres")
        private_key = context.secret_store.key_pair("airflow")[0].reveal().encode()
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
        web_server, *others = self._units([venv, environment, secrets, migrated], reachable)
        admin = [admin_user(context, migrated, self._has_api_server)]
        early, late = (admin, []) if self._has_api_server else ([], admin)
        return (
            *self._no_downgrade(postgres, known=False),
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus"]),
            User("airflow", "/home/airflow"),
            Directory("/home/airflow"),
            Directory(HOME, "airflow", "airflow", 0o750),
            Directory(FOLDER),
            Directory("/opt/airflow"),
            Directory("/etc/homelab"),
            UvInstall(uv.read_bytes()),
            venv,
            *bundles.setup(subfolders=not self._has_api_server),
            File(KEY, private_key, group="airflow", mode=0o640, secret=True),
            environment,
            secrets,
            SANDBOX.file(),
            failed_tasks_program(),
            known_hosts_file(context),
            database_file(context),
            File(CLI, render("airflow/homelab-airflow.j2", sandbox=SANDBOX, venv=_VENV), mode=0o700),
            reachable,
            *self._no_downgrade(postgres, known=True),
            migrated,
            *web_server,  # the next steps run while it starts; the scheduler waits for it
            *early,
            MetadataRows(objects, context.user_secrets(secrets_of(objects)), fernet_key(context)),
            *self._dags(bundles, context.inventory.pipelines, [venv, migrated]),
            # The scheduler starts a run immediately; if that failed, its retry would start five minutes later.
            *wait_for_gates(context, SANDBOX),
            *chain.from_iterable(others),
            *cleanup(self.version, self.retention, SANDBOX, _VENV, [migrated]),
            *late,
        )

    def _bundles(self, pipelines: Sequence[Pipeline]) -> DagBundles:
        own = [airflow_dags.USER] if self.dags else []
        names = [*own, *(pipeline.name for pipeline in pipelines)]
        return DagBundles(names, SANDBOX, f"{_VENV}/bin/python")

    def _dags(self, bundles: DagBundles, pipelines: Sequence[Pipeline], triggers: Sequence[Step]) -> Iterator[Step]:
        """Yield the bundles of the pipelines and that of the user; an error in one of them stops nothing else."""
        ids = {pipeline.name: pipeline.dag_id for pipeline in pipelines}
        for pipeline in pipelines:
            yield bundles.tree(
                pipeline.name,
                airflow_dags.files_of_pipeline(pipeline),
                taken=[dag_id for name, dag_id in ids.items() if name != pipeline.name],
                part=part_of(pipeline),
                triggered_by=triggers,
            )
        if self.dags:
            yield bundles.tree(
                airflow_dags.USER,
                airflow_dags.files_of(self.dags),
                taken=list(ids.values()),
                part=f"the DAGs in {self.dags.name}/",
                triggered_by=triggers,
            )

    def _no_downgrade(self, postgres: Container, *, known: bool) -> Iterator[Step]:
        """Yield the step that refuses 2.11 on the metadata of 3.x, which 2.11 cannot read.

        The first one, before anything is changed, accepts that the server does not answer yet.
        """
        if not self._has_api_server:
            yield Refuse(
                "Airflow keeps its version" if known else "Airflow is not downgraded",
                in_metadata("select to_regclass('public.dag_version') is not null"),
                HomelabError(
                    f"Cannot downgrade Airflow to {self.version}: its metadata are those of 3.x",
                    f"They are in the database airflow_metadata of {postgres.name}; Airflow {self.version} cannot read "
                    "them.",
                    'Write `version: "3.3"` under `airflow:` in the inventory. To go back to 2.11, restore a dump of '
                    "airflow_metadata from before the upgrade first.",
                ),
                needs_answer=known,
            )

    @property
    def _has_api_server(self) -> bool:
        return "api-server" in _PROCESSES[self.version]

    def _units(self, triggers: Sequence[Step], reachable: WaitFor) -> Iterator[Sequence[Step]]:
        """Yield the steps of each process, those of the web server first; a change of `triggers` restarts it.

        So does a wait for the database, except for the web server: all others end some seconds after it went away, and
        until then systemd has them as active.
        """
        # From Airflow 3 on, tasks use the API server, so the scheduler starts only after it answers.
        ready = File(_READY, render("airflow/ready.j2", url=self._health_url()), mode=0o755)
        for process, unit in zip(_PROCESSES[self.version], self._process_units, strict=True):
            waits_for_api = self._has_api_server and process == "scheduler"
            text = render(
                "airflow/airflow.service.j2",
                process=process,
                arguments=_ARGUMENTS.get(process, ""),
                venv=_VENV,
                sandbox=SANDBOX,
                ready=_READY if waits_for_api else "",
            )
            file = File(f"/etc/systemd/system/{unit}", text)
            # A faulty process fails only after seconds, so the health check at the end finds it.
            waits = [] if unit == self._process_units[0] else [reachable]
            running = SystemdUnit(unit, triggered_by=[file, *waits, *triggers], settle=0)
            yield (*([ready] if waits_for_api else []), file, running)

    def _health_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{_HEALTH[self.version]}"

    def health_probes(self) -> Sequence[str]:
        """Return the commands for its health report, its import errors, and its units' starts."""
        return airflow_health.probes(self._health_url(), self._process_units)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if its processes have a heartbeat, and it can import all DAGs."""
        return airflow_health.assess(answers)
