"""The service blackbox_exporter: requests to the endpoints that are open to the LAN, as their clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result
from homelab.model import Endpoint, Health, ServiceContext, Step
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.steps import File

_DAEMON = Daemon("prometheus-blackbox-exporter", 9115)
_CONFIG = f"{SETTINGS}/blackbox-exporter.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlackboxExporter(DaemonService):
    """blackbox_exporter: checks the endpoints that are open to the LAN from outside."""

    daemon: ClassVar[Daemon] = _DAEMON

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the metrics, over which Prometheus also asks for a check."""
        return (
            Endpoint(
                name="metrics",
                port=_DAEMON.port,
                description="checks of endpoints",
                audience="dependents",
                protocol="http",
                health_path="/-/healthy",
                metrics_path="/metrics",
            ),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return configuration and unit."""
        config = File(_CONFIG, render("blackbox_exporter/blackbox-exporter.yml.j2", ca_file=CA_FILE))
        return _DAEMON.steps(context, [f"--config.file={_CONFIG}"], [config])

    def health_probes(self) -> Sequence[str]:
        """Return a request to it."""
        return (_DAEMON.request("/-/healthy"),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers."""
        return Health(answers[0].ok, "answers" if answers[0].ok else "does not answer")
