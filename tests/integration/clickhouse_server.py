"""ClickHouse's engine on loopback: chdb behind the HTTPS front in clickhouse_front.py, a stand-in for the server."""

from __future__ import annotations

import secrets
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from homelab.certificates import Authority, Names
from tests.integration.pg import free_port
from tests.integration.waiting import until_started

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-chdb/bin/python"
DBT = ROOT / ".venv-clickhouse/bin/dbt"
_START = 60  # seconds


def is_installed() -> bool:
    """Return True if the engine and dbt's adapter are installed."""
    return PYTHON.exists() and DBT.exists()


@dataclass
class Server:
    """A server with one user; it can be stopped and started again with its tables."""

    folder: Path
    port: int
    password: str = field(default_factory=lambda: secrets.token_urlsafe(20))
    process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a pipeline with `target: clickhouse`."""
        return {
            "CLICKHOUSE_HOST": "127.0.0.1",
            "CLICKHOUSE_PORT": str(self.port),
            "CLICKHOUSE_USER": "pipeline_weather",
            "CLICKHOUSE_PASSWORD": self.password,
            "CLICKHOUSE_CA_FILE": str(self.folder / "ca.pem"),
            "CLICKHOUSE_DBT": str(DBT),
        }

    def prepare(self) -> None:
        """Write the certificate and the password."""
        names = Names.of({"localhost"}, {IPv4Address("127.0.0.1")})
        authority = Authority.create("lab", names)
        (self.folder / "server.pem").write_text(authority.issue(names))
        (self.folder / "ca.pem").write_text(authority.certificate)
        (self.folder / "other-ca.pem").write_text(Authority.create("other", names).certificate)
        (self.folder / "password").write_text(self.password)

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        front = Path(__file__).with_name("clickhouse_front.py")
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen([PYTHON, front, str(self.port), self.folder], stdout=log, stderr=log)
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        ping = f"https://127.0.0.1:{self.port}/ping"
        until_started(
            self.process,
            lambda: urllib.request.urlopen(ping, timeout=5, context=context).read(),
            log=self.folder / "log",
            seconds=_START,
        )

    def stop(self) -> None:
        """Stop the server."""
        assert self.process
        self.process.terminate()
        self.process.wait(30)

    def query(self, sql: str) -> str:
        """Return the answer to a statement as text."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}/?session_timezone=UTC", sql.encode(), {"X-ClickHouse-Key": self.password}
        )
        with urllib.request.urlopen(request, timeout=60, context=context) as answer:  # noqa: S310
            return bytes(answer.read()).decode().strip()


@contextmanager
def server() -> Iterator[Server]:
    """Run a server for the time of a block."""
    with tempfile.TemporaryDirectory(prefix="clickhouse-") as folder:
        running = Server(Path(folder), free_port())
        running.prepare()
        running.start()
        try:
            yield running
        finally:
            running.stop()
