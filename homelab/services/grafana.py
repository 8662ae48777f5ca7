"""The service Grafana: dashboards of all metrics, from its own apt repository.

`make dashboards` generates the dashboards; Grafana reads them as files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Endpoint, Health, PackageSources, ServiceContext, Step
from homelab.model.web_uis import published_url
from homelab.paths import bundled_path
from homelab.render import render
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.services.password_stamp import STAMPS, Stamp, password_stamp
from homelab.services.prometheus import Prometheus
from homelab.steps import Command, Directory, File, Packages, SystemdUnit, Tree, WaitFor

_ENVIRONMENT = f"{SETTINGS}/grafana.env"
_DAEMON = Daemon("grafana", 3000, (_ENVIRONMENT,))
_UNIT = "grafana-server.service"
_PROGRAM = "/usr/share/grafana/bin/grafana"
_HOME = "--homepath=/usr/share/grafana"
_FOLDER = f"{SETTINGS}/grafana"
_CONFIG = f"{_FOLDER}/grafana.ini"
_ADMIN = "grafana-admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grafana(DaemonService):
    """Grafana: dashboards of the stack, its containers and pipelines, PostgreSQL, Airflow and Proxmox."""

    daemon: ClassVar[Daemon] = _DAEMON
    requires: ClassVar[tuple[str, ...]] = ("prometheus",)
    minimum_memory: ClassVar[int] = 256

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the web UI, with a login, and its own metrics."""
        return (
            Endpoint(
                name="web",
                port=_DAEMON.port,
                description="Grafana",
                audience="lan",
                protocol="http",
                health_path="/api/health",
                metrics_path="/metrics",
                web_ui="Grafana",
                credentials=(_ADMIN,),
            ),
        )

    def units(self) -> Sequence[str]:
        """Return the unit of the package."""
        return (_UNIT,)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, settings, dashboards, unit and the admin's password. Raises InputError without a repository."""
        _require_repository(context.inventory.sources)
        settings = [
            File(_CONFIG, self._config(context)),
            File(f"{_FOLDER}/provisioning/datasources/homelab.yaml", _data_source(context)),
            File(
                f"{_FOLDER}/provisioning/dashboards/homelab.yaml",
                render("grafana/provider.yaml.j2", folder=f"{_FOLDER}/dashboards"),
            ),
            self._environment(context),
        ]
        folder, drop_in = _DAEMON.drop_in(["server", _HOME, f"--config={_CONFIG}"], _PROGRAM, _UNIT)
        folders = ("", "/provisioning", "/provisioning/datasources", "/provisioning/dashboards")
        return (
            *_DAEMON.sandbox.account(),
            Directory(STAMPS),
            Directory(SETTINGS),
            *(Directory(f"{_FOLDER}{each}") for each in folders),
            Tree.of(f"{_FOLDER}/dashboards", bundled_path("templates/grafana/dashboards")),
            *settings,
            folder,
            drop_in,
            Packages(["grafana", "python3"]),
            _DAEMON.sandbox.file(),
            SystemdUnit(_UNIT, triggered_by=[drop_in, *settings]),
            WaitFor("Grafana answers", _DAEMON.request("/api/health"), context.container.name, context.failed, 90),
            self._admin(context),
        )

    def _config(self, context: ServiceContext) -> bytes:
        return render(
            "grafana/grafana.ini.j2",
            published=published_url(context.inventory.containers, "grafana"),
            address=context.container.address,
            port=_DAEMON.port,
            data=_DAEMON.sandbox.writable[0],
            folder=_FOLDER,
        )

    def _environment(self, context: ServiceContext) -> File:
        """Return the file with the first password of `admin`, and the key that encrypts secrets in its database."""
        store = context.secret_store
        text = render(
            "grafana/grafana.env.j2", password=store.secret(_ADMIN).reveal(), key=store.secret("grafana-key").reveal()
        )
        return File(_ENVIRONMENT, text, mode=0o600, secret=True)

    def _admin(self, context: ServiceContext) -> Command:
        """Return the step that sets the password of `admin`: Grafana reads its setting at the first start only."""
        password = context.secret_store.secret(_ADMIN).reveal()
        stamp = Stamp(_ADMIN, password_stamp(context, _ADMIN).hex())
        reset = _DAEMON.sandbox.run(
            _PROGRAM, "cli", _HOME, f"--config={_CONFIG}", "admin", "reset-admin-password", "--password-from-stdin"
        )
        return stamp.command("grafana's admin user", reset, f"{password}\n".encode())

    def health_probes(self) -> Sequence[str]:
        """Return a request for its state."""
        return (_DAEMON.request("/api/health"),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and can use its database."""
        if not answers[0].ok:
            return Health(False, "does not answer")
        state = json.loads(answers[0].text)
        works = state["database"] == "ok"
        return Health(works, f"version {state['version']}" if works else "cannot use its database")


def _require_repository(sources: PackageSources) -> None:
    if not any("grafana" in f"{repository.name} {repository.uri}" for repository in sources.repositories):
        raise InputError(
            "Cannot deploy grafana: no repository of the inventory has its packages",
            "The distributions do not package Grafana; its own repository is not under `packages: repositories:`.",
            "Add it with its key as in docs/how-to/monitor.md.",
        )


def _data_source(context: ServiceContext) -> bytes:
    """Return the file that names Prometheus, and its interval, from which Grafana derives the range of a rate."""
    url, interval = next(
        (endpoint.url(str(container.address)), service.scrape_interval)
        for container, service in context.inventory.services()
        if isinstance(service, Prometheus)
        for endpoint in service.endpoints()
    )
    return render("grafana/datasource.yaml.j2", url=url, interval=f"{interval.seconds:.0f}s")
