"""The service Superset: dashboards of the published tables, with its metadata in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result
from homelab.model import DatabaseGrant, Endpoint, Health, ServiceContext, Step
from homelab.model.web_uis import published_url
from homelab.paths import bundled_path
from homelab.pipelines.published_files import COPIES
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.services.postgres_client import client_file
from homelab.services.publications import PUSHES, reading_sandbox, receive_publications
from homelab.services.superset_cleanup import TIMER, cleanup
from homelab.services.superset_dashboards import import_steps, program_steps, removal_step
from homelab.services.superset_metadata import (
    ADMIN,
    CLI,
    CLIENT,
    DATABASE,
    ROLE,
    UNIT,
    VIEWER,
    accounts,
    in_metadata,
    migration,
)
from homelab.steps import Directory, File, Packages, SystemdUnit, UvInstall, Venv, WaitFor

_ENVIRONMENT, _SECRETS = f"{SETTINGS}/superset.env", f"{SETTINGS}/superset-secrets.env"
_DAEMON = Daemon("superset", 8088, (_ENVIRONMENT, _SECRETS))
_FOLDER = "/opt/homelab/superset"
_VENV = f"{_FOLDER}/venv"
_MODULES = f"{_FOLDER}/modules"  # in Python's path
_DEADLINE = 900  # seconds of a start, which takes half a minute on an idle machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Superset(DaemonService):
    """Apache Superset: dashboards of the published tables of all pipelines."""

    daemon: ClassVar[Daemon] = _DAEMON
    requires: ClassVar[tuple[str, ...]] = ("postgres", "analytics")
    minimum_memory: ClassVar[int] = 768
    newest_python: ClassVar[tuple[int, int]] = (3, 12)
    reads_published: ClassVar[bool] = True
    imports_dashboards: ClassVar[bool] = True

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Own the metadata."""
        return (DatabaseGrant(DATABASE, ROLE, "own"),)

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the web UI, with a login, and SSH, over which the published files are pushed."""
        return (
            Endpoint(
                name="web",
                port=_DAEMON.port,
                description="Superset",
                audience="lan",
                protocol="http",
                health_path="/health",
                web_ui="Superset",
                credentials=(ADMIN, VIEWER),
            ),
            PUSHES,
        )

    def units(self) -> Sequence[str]:
        """Return the unit of the program, and the timer that removes old entries of its log."""
        return (UNIT, TIMER)

    def data_folders(self) -> Sequence[str]:
        """Return the folder of the program, and that of the copies of published files."""
        return (*_DAEMON.sandbox.writable, COPIES)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, settings, metadata, users, connections, the unit, and the dashboards of the pipelines."""
        sandbox, locks = reading_sandbox(context, _DAEMON.sandbox), bundled_path("pipelines/shared/requirements")
        venv = Venv(_VENV, (locks / "superset.txt").read_bytes())
        script = File(f"{_FOLDER}/setup.py", bundled_path("templates/superset/setup.py").read_bytes())
        settings = list(_settings(context))
        postgres = context.inventory.container_with("postgres")
        reachable = WaitFor(
            f"{postgres.name} accepts {ROLE}",
            in_metadata("select 1"),
            postgres.name,
            context.failed,
            context.wait_deadline(postgres),
            early=True,
        )
        migrated = migration(venv)
        unit = _unit(context, sandbox)
        return (
            *sandbox.account(),
            Packages(["python3", "python3-venv", "ca-certificates", "postgresql-client", "dbus"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(_FOLDER),
            Directory(_MODULES),
            venv,
            *settings,
            client_file(context, CLIENT, DATABASE, ROLE),
            sandbox.file(),
            File(CLI, render("superset/homelab-superset.j2", sandbox=sandbox, venv=_VENV), mode=0o700),
            script,
            *program_steps(sandbox, _FOLDER, _VENV),
            *receive_publications(context),
            reachable,
            migrated,
            removal_step(context.inventory.pipelines),
            accounts(context, sandbox, f"{_VENV}/bin/python", script, migrated),
            unit,
            SystemdUnit(UNIT, triggered_by=[venv, *settings, migrated, unit]),
            *cleanup(sandbox),
            WaitFor("Superset answers", _DAEMON.request("/health"), context.container.name, context.failed, _DEADLINE),
            *import_steps(context.inventory.pipelines),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the commands for its state, and for the number of its dashboards."""
        return (_DAEMON.request("/health"), in_metadata("select count(*) from dashboards"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and has its metadata."""
        if not answers[0].ok or answers[0].text != "OK":
            return Health(False, "does not answer")
        if not answers[1].ok:
            return Health(False, "cannot read its metadata: PostgreSQL does not answer")
        count = int(answers[1].text)
        return Health(True, f"{count} dashboard{'' if count == 1 else 's'}", {"dashboards": count})


def _settings(context: ServiceContext) -> Iterator[File]:
    published = published_url(context.inventory.containers, "superset")
    settings = render("superset/superset_config.py.j2", behind_gateway=bool(published))
    yield File(f"{_MODULES}/superset_config.py", settings)
    yield File(f"{_MODULES}/wtforms_json.py", bundled_path("templates/superset/wtforms_json.py").read_bytes())
    environment = render(
        "superset/superset.env.j2", modules=_MODULES, home=_DAEMON.sandbox.writable[0], ca_file=CA_FILE
    )
    yield File(_ENVIRONMENT, environment, mode=0o600)
    secrets = render(
        "superset/secrets.env.j2",
        key=context.secret_store.secret("superset-key").reveal(),
        password=context.secret_store.secret(f"postgres-{ROLE}").reveal(),
        postgres=context.inventory.container_with("postgres").address,
    )
    yield File(_SECRETS, secrets, mode=0o600, secret=True)


def _unit(context: ServiceContext, sandbox: Sandbox) -> File:
    arguments = (
        f"--bind={context.container.address}:{_DAEMON.port}",
        "--workers=1",
        "--worker-class=gthread",
        "--threads=8",
        "--timeout=120",
        '"superset.app:create_app()"',
    )
    text = render("superset/superset.service.j2", venv=_VENV, arguments=arguments, sandbox=sandbox)
    return File(f"/etc/systemd/system/{UNIT}", text)
