"""The service Alertmanager: groups the alerts of Prometheus, and sends each incident and its end once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from homelab.host import Result
from homelab.model import Endpoint, Health, ServiceContext, Step
from homelab.model.alert_receivers import BRIDGE
from homelab.model.options import Duration, Option
from homelab.render import render
from homelab.services.alert import WATCHDOG
from homelab.services.alert_bridge import PORT, watcher
from homelab.services.inhibitions import inhibitions
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService, external_url
from homelab.steps import File

_DAEMON = Daemon("prometheus-alertmanager", 9093)
_CONFIG = f"{SETTINGS}/alertmanager.yml"
_RETENTION = 5 * 86400  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager(DaemonService):
    """Alertmanager: groups the alerts of Prometheus and sends them to the receivers of `alerts:`."""

    daemon: ClassVar[Daemon] = _DAEMON
    uses: ClassVar[tuple[str, ...]] = (BRIDGE,)
    minimum_memory: ClassVar[int] = 64

    group_wait: Annotated[
        Duration, Option("Time to collect the alerts of one incident before its message.", high=Duration("1h"))
    ] = Duration("30s")
    repeat_interval: Annotated[
        Duration, Option("Time after which the message of an open incident is repeated.", low=Duration("1m"))
    ] = Duration("7d")

    def endpoints(self) -> Sequence[Endpoint]:
        """Return its API for the services that use it: it has no login, and accepts silences."""
        return (
            Endpoint(
                name="web",
                port=_DAEMON.port,
                description="Alertmanager",
                audience="dependents",
                protocol="http",
                health_path="/-/ready",
                metrics_path="/metrics",
                web_ui="Alertmanager",
            ),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return configuration and unit."""
        inventory = context.inventory
        bridge = f"http://{context.container.address}:{PORT}/send"
        watching = watcher(inventory)
        text = render(
            "alertmanager/alertmanager.yml.j2",
            receivers=[f"{bridge}/{name}" for name in inventory.alerts.receivers] if inventory.alerts else [],
            watcher=f"http://{watching.address}:{PORT}/watchdog" if watching else "",
            inhibitions=inhibitions(inventory),
            group_wait=f"{self.group_wait.seconds:.0f}s",
            repeat_interval=f"{self.repeat_interval.seconds:.0f}s",
        )
        config = File(_CONFIG, text)
        arguments = [
            f"--config.file={_CONFIG}",
            f"--storage.path={_DAEMON.sandbox.writable[0]}",
            "--cluster.listen-address=",  # it is the only one
            # Longer than the time until the message of an open incident is repeated.
            f"--data.retention={self.repeat_interval.seconds + _RETENTION:.0f}s",
            *external_url(context, "alertmanager"),
        ]
        return _DAEMON.steps(context, arguments, [config])

    def health_probes(self) -> Sequence[str]:
        """Return requests for its readiness and its alerts."""
        return (_DAEMON.request("/-/ready"), _DAEMON.request("/api/v2/alerts?active=true&silenced=false"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers."""
        if not all(each.ok for each in answers):
            return Health(False, "does not answer")
        names = sorted({f"{each['labels']['alertname']}" for each in json.loads(answers[1].text)} - {WATCHDOG})
        return Health(True, f"open incidents: {', '.join(names) or 'none'}", {"alerts": names})
