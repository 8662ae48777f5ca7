"""Airflow, which runs the pipeline over SSH."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, ClassVar, Literal

from homelab.distributions import Distribution
from homelab.errors import HomelabError
from homelab.host import Result, argv
from homelab.model import DatabaseGrant, Health, ManagedResource, Port, Service, ServiceContext, Step
from homelab.model.options import Option
from homelab.paths import bundled_path
from homelab.pipeline_contract import CONNECTION_ID, DAG_ID
from homelab.render import render
from homelab.steps import Command, Directory, File, Packages, SystemdUnit, Tree, User, UvInstall, Venv, WaitFor
from homelab.steps.queries import Query

HOME = "/home/airflow/airflow"
CLI = "/usr/local/sbin/homelab-airflow"  # Airflow's own command line, as its user and with its environment
_VENV = "/opt/airflow/venv"
_ENVIRONMENT = "/etc/homelab/airflow.env"
_DATABASE = "/etc/homelab/airflow-database.env"
_READY = "/usr/local/sbin/homelab-airflow-ready"
_STAMPS = "/var/lib/homelab"
_KEY = "/home/airflow/.ssh/analytics"
_KNOWN = "/home/airflow/.ssh/known_hosts"
# As of OpenSSH 9.8, a refused login counts 5 s against its address, and at 15 s sshd hangs up on all that come from it.
_EVERY = 5.5  # seconds

_IMPORT = argv("runuser", "-u", "airflow", "--", f"{_VENV}/bin/python", f"{HOME}/dags/{DAG_ID}.py")

# What a series runs, and where it says how it is.
_PROCESSES = {"3.3": ("api-server", "dag-processor", "scheduler"), "2.11": ("webserver", "scheduler")}
# The scheduler's log server would listen on all addresses, and LocalExecutor has no use for it.
_ARGUMENTS = {"scheduler": " --skip-serve-logs"}
_HEALTH = {"3.3": "/api/v2/monitor/health", "2.11": "/health"}


def in_metadata(sql: str) -> Query:
    """Shell text that runs SQL in Airflow's metadata database, from Airflow's container."""
    return Query(f"set -a; . {_DATABASE}; psql", "airflow_metadata", sql)


def _there(table: str) -> Query:
    """Shell text that succeeds when there is such a row in the metadata: where there is none, it divides by zero."""
    return in_metadata(f"select 1 / count(*) from {table}")


def _refused_by_gate(address: str) -> str:
    """Shell text that succeeds when the gate behind Airflow's key is in place: it refuses everything else."""
    ssh = argv(
        "runuser",
        "-u",
        "airflow",
        "--",
        "ssh",
        "-i",
        _KEY,
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "ConnectTimeout=3",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "UpdateHostKeys=no",
        f"analytics@{address}",
        "nothing",
    )
    return f"{ssh} 2>&1 | grep -q '^refused:'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Airflow(Service):
    """Apache Airflow: runs the pipeline over SSH, and has a web UI."""

    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")

    version: Annotated[Literal["3.3", "2.11"], Option("Series of Airflow; 2.11 runs on Python up to 3.12.")] = "3.3"
    # A port below 1024 would need a capability.
    port: Annotated[int, Option("Port of the web UI.", low=1024, high=65535)] = 8080
    parallelism: Annotated[int, Option("Number of tasks that may run in parallel.", low=1)] = 4

    def unsupported_options(self, distribution: Distribution) -> Iterator[tuple[str, str]]:
        """2.11 is the last series for Python up to 3.12."""
        if self.version == "2.11" and distribution.python > (3, 12):
            yield (
                "version",
                (
                    f"Airflow 2.11 runs on Python up to 3.12, and {distribution.alias} has "
                    f'{".".join(map(str, distribution.python))}: write "3.3", or another template'
                ),
            )

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Owns its metadata, may look at the observations."""
        return (
            DatabaseGrant("airflow_metadata", "airflow_admin", "own"),
            DatabaseGrant("project_data", "airflow_admin", "read"),
        )

    def ports(self) -> Sequence[Port]:
        """The web UI."""
        return (Port(self.port, "Airflow's web UI", "lan"),)

    def units(self) -> Sequence[str]:
        """One unit for each of its processes."""
        return tuple(f"airflow-{process}.service" for process in _PROCESSES[self.version])

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """User, venv, configuration, metadata, admin, units, DAG."""
        requirements = bundled_path("pipeline") / "requirements"
        venv = Venv(_VENV, (requirements / f"airflow-{self.version}.txt").read_bytes())
        environment = File(_ENVIRONMENT, self._environment(context), mode=0o600, secret=True)
        postgres, analytics = (context.inventory.container_with(name) for name in ("postgres", "analytics"))
        dags = Tree.of(f"{HOME}/dags", bundled_path("pipeline") / "dags", "*.py")
        migrated = self._migrated(venv)
        web, *others = self._units(venv, environment, migrated)
        admin = [self._admin(context, migrated)]
        soon, late = (admin, []) if self._api else ([], admin)
        return (
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client"]),
            User("airflow", "/home/airflow"),
            Directory(HOME, "airflow", "airflow", 0o750),
            Directory("/home/airflow/.ssh", "airflow", "airflow", 0o700),
            Directory("/opt/airflow"),
            Directory("/etc/homelab", mode=0o700),
            UvInstall((requirements / "uv.txt").read_bytes()),
            venv,
            dags,
            File(
                _KEY,
                context.secret_store.key_pair("airflow")[0].reveal().encode(),
                "airflow",
                "airflow",
                0o600,
                secret=True,
            ),
            environment,
            File(_KNOWN, f"{analytics.address} {self._host_key(context)}\n".encode()),
            File(
                _DATABASE,
                render("airflow/database.env.j2", postgres=postgres.address, password=self._password(context)),
                mode=0o600,
                secret=True,
            ),
            File(CLI, render("airflow/homelab-airflow.j2", environment=_ENVIRONMENT, venv=_VENV), mode=0o700),
            WaitFor(
                f"{postgres.name} accepts airflow_admin",
                in_metadata("select 1"),
                postgres.name,
                context.failed,
                context.patience(postgres),
                early=True,
            ),
            migrated,
            *web,  # what comes next is done while it comes up, for which the scheduler waits
            *soon,
            Command(
                "Airflow can import the DAG",
                "true",
                f"set -a; . {_ENVIRONMENT}; cd / && {_IMPORT}",
                triggered_by=[venv, dags, migrated],
            ),
            # The scheduler begins with a run of this hour at once; a retry would come five minutes later.
            WaitFor(
                f"{analytics.name} accepts Airflow's key",
                _refused_by_gate(str(analytics.address)),
                analytics.name,
                context.failed,
                context.patience(analytics),
                every=_EVERY,
            ),
            *chain.from_iterable(others),
            *late,
        )

    @property
    def _api(self) -> bool:
        return "api-server" in _PROCESSES[self.version]

    def _password(self, context: ServiceContext) -> str:
        return context.secret_store.secret("postgres-airflow_admin").reveal()

    def _host_key(self, context: ServiceContext) -> str:
        analytics = context.inventory.container_with("analytics")
        if analytics.name not in context.host_keys:
            raise HomelabError(
                f"{context.container.name}: the SSH host key of {analytics.name} is not known yet",
                "Airflow has to know it, to be sure whom it talks to.",
                "Run `homelab up` first.",
            )
        return context.host_keys[analytics.name]

    def _environment(self, context: ServiceContext) -> bytes:
        analytics = context.inventory.container_with("analytics")
        connection = {
            "conn_type": "ssh",
            "host": str(analytics.address),
            "login": "analytics",
            "extra": {
                "key_file": _KEY,
                "host_key": self._host_key(context),
                "look_for_keys": "false",
                "conn_timeout": 20,
            },
        }
        fernet = hashlib.sha256(context.secret_store.secret("airflow-fernet").reveal().encode()).digest()
        return render(
            "airflow/airflow.env.j2",
            home=HOME,
            options=self,
            connection_id=CONNECTION_ID,
            schedule=context.inventory.pipeline.schedule,
            postgres=context.inventory.container_with("postgres").address,
            password=self._password(context),
            fernet=base64.urlsafe_b64encode(fernet).decode(),
            connection=json.dumps(connection),
            secret_key=context.secret_store.secret("airflow-secret-key").reveal(),
            jwt_secret=context.secret_store.secret("airflow-jwt").reveal(),
        )

    def _migrated(self, venv: Venv) -> Command:
        stamp = f"{_STAMPS}/airflow-migrated"
        # A metadata database that was made anew has no alembic_version, whatever the stamp says.
        done = (f"grep -qxs {venv.digest} {stamp}", _there("alembic_version"))
        command = f"systemctl stop 'airflow-*' && {CLI} db migrate && mkdir -p {_STAMPS} && echo {venv.digest} >{stamp}"
        return Command("airflow db migrate", done, command, triggered_by=[venv], makes=[ManagedResource("made", stamp)])

    def _admin(self, context: ServiceContext, migrated: Command) -> Command:
        password = context.secret_store.secret("airflow-admin").reveal()
        stamp, digest = f"{_STAMPS}/airflow-admin", hashlib.sha256(password.encode()).hexdigest()
        done = (f"grep -qxs {digest} {stamp}", _there("ab_user where username = 'admin'"))
        create = argv(
            CLI,
            "users",
            "create",
            "--username",
            "admin",
            "--firstname",
            "Home",
            "--lastname",
            "Lab",
            "--role",
            "Admin",
            "--email",
            "admin@example.org",
        )
        # It asks for the password twice on standard input, where no process list can see it. For a user that
        # exists it would change nothing, and 2.11.2 cannot reset a password: so the old one goes first.
        # The web server writes what each role may do, at every start. So does this command, and two at once get in each
        # other's way; but from 3 on it need not, and so not wait for the other.
        roles = "export AIRFLOW__FAB__UPDATE_FAB_PERMS=False; " if self._api else ""
        command = (
            f"{roles}if {in_metadata('select 1 from ab_user where username = $$admin$$')} | grep -q 1; "
            f"then {argv(CLI, 'users', 'delete', '--username', 'admin')}; fi && {create} && "
            f"echo {digest} >{stamp}"
        )
        return Command(
            "airflow's admin user",
            done,
            command,
            stdin=f"{password}\n{password}\n".encode(),
            triggered_by=[migrated],
            makes=[ManagedResource("made", stamp)],
        )

    def _units(self, venv: Step, environment: Step, migrated: Step) -> Iterator[Sequence[Step]]:
        """What each process takes; the web server's first."""
        # From 3 on, tasks talk to the API server: the scheduler starts none before that answers.
        ready = File(_READY, render("airflow/ready.j2", url=self._health_url()), mode=0o755)
        for process, unit in zip(_PROCESSES[self.version], self.units(), strict=True):
            waits = self._api and process == "scheduler"
            text = render(
                "airflow/airflow.service.j2",
                process=process,
                arguments=_ARGUMENTS.get(process, ""),
                venv=_VENV,
                home=HOME,
                environment=_ENVIRONMENT,
                ready=_READY if waits else "",
            )
            file = File(f"/etc/systemd/system/{unit}", text)
            # It takes Python seconds to find a fault: whether it works is asked at the end.
            running = SystemdUnit(unit, triggered_by=[file, environment, venv, migrated], settle=0)
            yield (*([ready] if waits else []), file, running)

    def _health_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{_HEALTH[self.version]}"

    def _ask(self) -> str:
        script = f"import urllib.request as u; print(u.urlopen({self._health_url()!r}, timeout=5).read().decode())"
        return argv("/usr/bin/python3", "-c", script)

    def health_probes(self) -> Sequence[str]:
        """What it says of itself, and its last runs."""
        runs = (
            "select coalesce(json_agg(r), '[]') from (select run_id, state, start_date, end_date from dag_run "
            f"where dag_id = '{DAG_ID}' order by start_date desc nulls last limit 5) r"
        )
        return (self._ask(), in_metadata(runs))

    def health(self, answers: Sequence[Result]) -> Health:
        """Healthy when its processes have a heartbeat and the last finished run was a success."""
        said, runs = answers
        if not said.ok or not runs.ok:
            return Health(False, "does not answer")
        parts = {name: part["status"] for name, part in json.loads(said.text).items() if part.get("status")}
        last = json.loads(runs.text)
        finished = next((run for run in last if run["state"] in ("success", "failed")), None)
        outcome = f"last run {finished['state']} at {finished['end_date'][:19]}" if finished else "no run yet"
        ready = all(status == "healthy" for status in parts.values())
        well = ready and (finished is None or finished["state"] == "success")
        return Health(
            well,
            f"{', '.join(f'{name} {status}' for name, status in parts.items())}; {outcome}",
            {"processes": parts, "last_runs": last},
            ready,
        )
