"""The service Alertmanager: groups the alerts of Prometheus, and sends each incident and its end once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from homelab.host import Result
from homelab.model import Endpoint, Health, ServiceContext, Step
from homelab.model.options import Duration, Option
from homelab.render import render
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.steps import File

_DAEMON = Daemon("prometheus-alertmanager", 9093)
_CONFIG = f"{SETTINGS}/alertmanager.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alertmanager(DaemonService):
    """Alertmanager: sends the alerts of Prometheus to a webhook."""

    daemon: ClassVar[Daemon] = _DAEMON
    minimum_memory: ClassVar[int] = 64

    webhook: Annotated[
        str | None,
        Option(
            "URL that gets each incident and its end as JSON, in Alertmanager's format.",
            pattern=r"https?://[^\s\"'\\]+",
            expected="a URL such as http://192.168.2.5:8000/alerts",
            examples=("http://192.168.2.5:8000/alerts",),
        ),
    ] = None
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
        text = render(
            "alertmanager/alertmanager.yml.j2",
            webhook=self.webhook,
            group_wait=f"{self.group_wait.seconds:.0f}s",
            repeat_interval=f"{self.repeat_interval.seconds:.0f}s",
        )
        # The URL may contain a token.
        config = File(_CONFIG, text, group=_DAEMON.sandbox.user, mode=0o640, secret=True)
        arguments = [
            f"--config.file={_CONFIG}",
            f"--storage.path={_DAEMON.sandbox.writable[0]}",
            "--cluster.listen-address=",  # it is the only one
        ]
        return _DAEMON.steps(context, arguments, [config])

    def health_probes(self) -> Sequence[str]:
        """Return requests for its readiness and its alerts."""
        return (_DAEMON.request("/-/ready"), _DAEMON.request("/api/v2/alerts?active=true&silenced=false"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers."""
        if not all(each.ok for each in answers):
            return Health(False, "does not answer")
        names = sorted({f"{each['labels']['alertname']}" for each in json.loads(answers[1].text)})
        return Health(True, f"open incidents: {', '.join(names) or 'none'}", {"alerts": names})
