"""The service ClickHouse: builds the models of the weather, and answers queries of its marts, from its own repository.

No test runs the server: no package registry has it. Tests build the models with its engine, chdb.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Endpoint, Health, PackageSources, ServiceContext, Step
from homelab.model.options import Option, Size
from homelab.pipelines.clickhouse_login import BUILDER, BUILDS_IN, ENDPOINT, PUBLISHED, clickhouse_secret
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.steps import Directory, File, Packages, SystemdUnit, WaitFor

_PORT = 8443
# The package sets these capabilities on its program: if the unit denies one, it does not start (EPERM).
_CAPABILITIES = ("CAP_NET_ADMIN", "CAP_IPC_LOCK", "CAP_SYS_NICE", "CAP_NET_BIND_SERVICE")
_DAEMON = Daemon("clickhouse-server", _PORT, capabilities=_CAPABILITIES)
_FOLDER = f"{SETTINGS}/clickhouse"
_CONFIG, _USERS = f"{_FOLDER}/config.xml", f"{_FOLDER}/users.xml"
# dbt's adapter looks up databases, tables and settings in these tables.
_SYSTEM = tuple(f"GRANT SELECT ON system.{name}" for name in ("columns", "databases", "settings", "tables"))
_READER = Annotated[
    str,
    Option(
        pattern=rf"(?!{BUILDER}$|default$)[a-z][a-z0-9_]{{0,30}}",
        expected=f"a name with lower-case letters, digits and underscores, apart from {BUILDER} and default",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickHouse(DaemonService):
    """ClickHouse: builds the models of a pipeline with `target: clickhouse`, and answers queries of its marts."""

    memory_limit: Annotated[
        Size,
        Option("Memory that the server may use; a statement may use 80 % of it.", low=Size("500MB"), part_of="memory"),
    ] = Size("1500MB")
    clients: Annotated[
        Literal["stack", "lan"], Option("Clients: the containers with pipelines, or the whole subnet.")
    ] = "stack"
    readers: Annotated[
        tuple[_READER, ...], Option(f"Users that may read the database `{PUBLISHED}`.", examples=(["grafana"],))
    ] = ()

    daemon: ClassVar[Daemon] = _DAEMON
    minimum_memory: ClassVar[int] = 2048

    def option_errors(self) -> Iterator[tuple[Sequence[str | int], str]]:
        """Yield an error for each reader that is in the list twice."""
        for position, name in enumerate(self.readers):
            if name in self.readers[:position]:
                yield ("readers", position), "is a user that is already in the list"

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the interface over HTTPS; the native one, and those without TLS, are closed."""
        return (
            Endpoint(
                name=ENDPOINT,
                port=_PORT,
                description="ClickHouse",
                audience="lan" if self.clients == "lan" else "dependents",
                tls=True,
                restricted=self.clients == "stack",
                credentials=tuple(map(clickhouse_secret, self.readers)),
            ),
        )

    def stop_seconds(self) -> int:
        """Return the time in which the server writes its memory to the disk."""
        return 120

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, certificate, configuration and unit. Raises InputError without a repository."""
        _require_repository(context.inventory.sources)
        user = _DAEMON.sandbox.user
        certificate = server_certificate(context, "clickhouse", user)
        values = {"memory": self.memory_limit.bytes}
        config = render(
            "clickhouse/config.xml.j2",
            address=context.container.address,
            port=_PORT,
            certificate=certificate.path,
            folder=_DAEMON.sandbox.writable[0],
            users=_USERS,
            **values,
        )
        users = render(
            "clickhouse/users.xml.j2",
            users=[self._user(context, name) for name in (BUILDER, *self.readers)],
            subnet=context.inventory.network.subnet,
            **values,
        )
        files = [File(_CONFIG, config), File(_USERS, users, group=user, mode=0o640, secret=True)]
        folder, drop_in = _DAEMON.drop_in([f"--config-file={_CONFIG}"], "/usr/bin/clickhouse-server")
        return (
            *_DAEMON.sandbox.account(),
            Directory(SETTINGS),
            Directory(_FOLDER),
            certificate,
            *files,
            folder,
            drop_in,
            Packages(["clickhouse-server", "python3"]),
            SystemdUnit(_DAEMON.unit, triggered_by=[certificate, drop_in, *files]),
            WaitFor("ClickHouse answers", _ping(), context.container.name, context.failed, 120),
        )

    def _user(self, context: ServiceContext, name: str) -> Mapping[str, object]:
        """Return a user with the hash of the password: its own secret, so that no two users have the same hash."""
        password = context.secret_store.secret(clickhouse_secret(name)).reveal()
        grants: Sequence[str] = (f"GRANT SELECT ON {PUBLISHED}.*",)
        if name == BUILDER:
            grants = (*(f"GRANT ALL ON {database}.*" for database in (*BUILDS_IN, PUBLISHED)), *_SYSTEM)
        return {
            "name": name,
            "sha256": hashlib.sha256(password.encode()).hexdigest(),
            "profile": "default" if name == BUILDER else "reader",
            "grants": grants,
        }

    def health_probes(self) -> Sequence[str]:
        """Return a request over verified TLS."""
        return (_ping(),)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers."""
        works = answers[0].ok and answers[0].text.strip() == "Ok."
        return Health(works, "answers" if works else "does not answer")


def _ping() -> str:
    return _DAEMON.request("/ping", ca_file=CA_FILE)


def _require_repository(sources: PackageSources) -> None:
    if not any("clickhouse" in f"{repository.name} {repository.uri}" for repository in sources.repositories):
        raise InputError(
            "Cannot deploy clickhouse: no repository of the inventory has its packages",
            "The distributions do not package it; its own repository is not under `packages: repositories:`.",
            "Add it with its key as in docs/how-to/clickhouse.md.",
        )
