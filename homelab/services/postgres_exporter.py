"""The service postgres_exporter: PostgreSQL's statistics as metrics, with a role that can read no table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.host import Result
from homelab.model import DatabaseGrant, Endpoint, Health, ServiceContext, Step
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.steps import File

_ENVIRONMENT = f"{SETTINGS}/postgres-exporter.env"
_DAEMON = Daemon("prometheus-postgres-exporter", 9187, (_ENVIRONMENT,))
_GRANT = DatabaseGrant("project_data", "postgres_exporter", "monitor")


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresExporter(DaemonService):
    """postgres_exporter: connections, transactions and sizes of PostgreSQL."""

    daemon: ClassVar[Daemon] = _DAEMON
    requires: ClassVar[tuple[str, ...]] = ("postgres",)
    many: ClassVar[bool] = True

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Monitor the server."""
        return (_GRANT,)

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the metrics."""
        return (
            Endpoint(
                name="metrics",
                port=_DAEMON.port,
                description="metrics of PostgreSQL",
                audience="dependents",
                protocol="http",
                metrics_path="/metrics",
            ),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return the file with its connection, over TLS, and its unit."""
        text = render(
            "postgres_exporter/postgres-exporter.env.j2",
            postgres=context.inventory.container_with("postgres").address,
            grant=_GRANT,
            ca_file=CA_FILE,
            password=context.secret_store.secret(f"postgres-{_GRANT.role}").reveal(),
        )
        return _DAEMON.steps(context, [], [File(_ENVIRONMENT, text, mode=0o600, secret=True)])

    def health_probes(self) -> Sequence[str]:
        """Return a request for the metric that tells if PostgreSQL answers."""
        return (_DAEMON.request("/metrics", "^pg_up "),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it reads PostgreSQL's statistics."""
        if not answers[0].ok:
            return Health(False, "does not answer")
        connected = answers[0].text == "pg_up 1"
        return Health(connected, "reads PostgreSQL's statistics" if connected else "PostgreSQL does not answer it")
