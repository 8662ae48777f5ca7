"""The service Prometheus: reads the metrics of all services of the inventory, and evaluates the alert rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import urlencode

from homelab.host import Result
from homelab.model import Endpoint, Health, ServiceContext, Step
from homelab.model.options import Duration, Option, Size
from homelab.render import render
from homelab.services.alert import rules_file
from homelab.services.alert_rules import alerts
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService, external_url
from homelab.services.scrape_targets import probe_targets, targets
from homelab.steps import Directory, File

_DAEMON = Daemon("prometheus", 9090)
_FOLDER = f"{SETTINGS}/prometheus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prometheus(DaemonService):
    """Prometheus: metrics of all services with their history, and alerts."""

    daemon: ClassVar[Daemon] = _DAEMON
    uses: ClassVar[tuple[str, ...]] = ("alertmanager", "blackbox_exporter")
    minimum_memory: ClassVar[int] = 256
    reads_metrics: ClassVar[bool] = True

    retention: Annotated[Duration, Option("Time for which metrics are kept.", low=Duration("1h"))] = Duration("30d")
    retention_size: Annotated[
        Size, Option("Size of the kept metrics; the oldest are removed first.", low=Size("100MB"), part_of="disk")
    ] = Size("2GB")
    scrape_interval: Annotated[
        Duration, Option("Time between two readings of each endpoint.", low=Duration("1s"), high=Duration("5m"))
    ] = Duration("30s")

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the web UI, which only reads, and its own metrics."""
        return (
            Endpoint(
                name="web",
                port=_DAEMON.port,
                description="Prometheus",
                audience="lan",
                protocol="http",
                health_path="/-/ready",
                metrics_path="/metrics",
                web_ui="Prometheus",
            ),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return settings, rules, targets and unit; Prometheus reads changed targets without a restart."""
        inventory = context.inventory
        probing = next((f"{c.address}:{e.port}" for c, e in context.peers("blackbox_exporter", "metrics")), "")
        tls = any(endpoint.tls for _, service in inventory.services() for endpoint in service.endpoints())
        settings = render(
            "prometheus/prometheus.yml.j2",
            lab=inventory.lab,
            interval=f"{self.scrape_interval.seconds:.0f}s",
            folder=_FOLDER,
            ca_file=CA_FILE if tls else "",
            probing=probing,
            alertmanagers=[f"{c.address}:{e.port}" for c, e in context.peers("alertmanager", "web")],
        )
        others = [
            Directory(_FOLDER),
            File(f"{_FOLDER}/targets.json", _json(targets(inventory))),
            File(f"{_FOLDER}/probes.json", _json(probe_targets(inventory))),
        ]
        files = [
            File(f"{_FOLDER}/prometheus.yml", settings),
            File(f"{_FOLDER}/rules.yml", rules_file(alerts(inventory), self.scrape_interval.seconds)),
        ]
        arguments = [
            f"--config.file={_FOLDER}/prometheus.yml",
            f"--storage.tsdb.path={_DAEMON.sandbox.writable[0]}",
            f"--storage.tsdb.retention.time={self.retention.seconds:.0f}s",
            f"--storage.tsdb.retention.size={self.retention_size.bytes >> 20}MB",
        ]
        return _DAEMON.steps(context, [*arguments, *external_url(context, "prometheus")], files, others)

    def health_probes(self) -> Sequence[str]:
        """Return requests for its readiness, for the number of its targets, and for those that are down."""
        query = "/api/v1/query?query="
        return (_DAEMON.request("/-/ready"), _DAEMON.request(f"{query}count(up)"), _DAEMON.request(f"{query}up%3D%3D0"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and can read every endpoint."""
        if not all(each.ok for each in answers):
            return Health(False, "does not answer")
        number, down = (json.loads(each.text)["data"]["result"] for each in answers[1:])
        count = int(number[0]["value"][1]) if number else 0
        names = sorted(f"{each['metric']['job']} of {each['metric'].get('container', '?')}" for each in down)
        text = f"reads {count} endpoints" + (f"; no answer from {', '.join(names)}" if names else "")
        return Health(not names, text, {"targets": count, "down": names}, ready=True)


def range_query(promql: str, start: int, end: int, step: int) -> str:
    """Return shell text for Prometheus' container that prints the values of a query between two times in seconds."""
    parameters = urlencode({"query": promql, "start": start, "end": end, "step": step})
    return _DAEMON.request(f"/api/v1/query_range?{parameters}")


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
