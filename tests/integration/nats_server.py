"""A real nats-server on loopback, with the configuration, the identities and the stream that a deploy makes."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from homelab.certificates import Authority, Names
from homelab.dev.local_postgres import free_port
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import CONSUMERS, STREAM
from homelab.render import render
from homelab.services.broker import Identity, identities
from tests.integration.waiting import until_started
from tests.unit.test_broker import broker_context

PROGRAM = Path(sys.executable).with_name("nats-server")
REPORT = bundled_path("templates/broker/report.py")


@dataclass
class NatsServer:
    """The files of a server, and its process."""

    folder: Path
    disk: int = 64 << 20  # bytes
    port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    consumers: int = 1
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Write certificate and configuration."""
        authority = Authority.create("broker", Names.of({"localhost"}, {IPv4Address("127.0.0.1")}))
        self.ca_file = self.folder / "ca.crt"
        self.ca_file.write_text(authority.certificate)
        pem = self.folder / "broker.pem"
        pem.write_text(authority.issue(Names.of({"localhost"}, {IPv4Address("127.0.0.1")})))
        self.logins: Mapping[str, Identity] = {
            each.user: each for each in identities(broker_context(self.folder, self.consumers))
        }
        config = render(
            "broker/nats.conf.j2",
            name="broker",
            address="127.0.0.1",
            port=self.port,
            monitor_port=self.monitor_port,
            certificate=pem,
            folder=self.folder / "store",
            disk=self.disk,
            identities=[asdict(each) for each in self.logins.values()],
        )
        (self.folder / "nats.conf").write_bytes(config)

    def environment(self, user: str, port: int = 0) -> dict[str, str]:
        """Return the variables of a client."""
        return {
            "NATS_URL": f"tls://127.0.0.1:{port or self.port}",
            "NATS_USER": user,
            "NATS_PASSWORD": self.logins[user].password,
            "NATS_CA_FILE": str(self.ca_file),
        }

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        words = [str(PROGRAM), "--config", str(self.folder / "nats.conf"), "--log", str(self.folder / "log")]
        self.process = subprocess.Popen(words)
        health = f"http://127.0.0.1:{self.monitor_port}/healthz"
        until_started(self.process, lambda: urllib.request.urlopen(health, timeout=1).close(), log=self.folder / "log")

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def stop(self) -> None:
        """Stop the server, which writes the state of its consumers before it ends."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def kept(self) -> int:
        """Return the number of messages in the stream, also of those that are stored."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/jsz", timeout=20) as response:
            return int(json.load(response)["messages"])

    def set_up(self) -> None:
        """Run the script that creates the stream and its consumers."""
        settings = {
            "url": f"tls://127.0.0.1:{self.port}",
            "ca_file": str(self.ca_file),
            "stream": STREAM,
            "consumers": CONSUMERS,
            "disk": self.disk,
            "user": "setup",
            "password": self.logins["setup"].password,
        }
        script = bundled_path("templates/broker/setup.py")
        done = subprocess.run(
            [sys.executable, str(script)], input=json.dumps(settings).encode(), capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stderr.decode()

    def report(self) -> dict[str, Any]:
        """Return the state of the stream, as `homelab status` reads it."""
        words = [sys.executable, str(REPORT), "json", str(self.monitor_port)]
        found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, timeout=20).stdout)
        return found

    def metrics(self) -> dict[str, int]:
        """Return the metrics, as node_exporter gets them."""
        words = [sys.executable, str(REPORT), "metrics", str(self.monitor_port)]
        text = subprocess.run(words, check=True, capture_output=True, timeout=20).stdout.decode()
        return {name: int(value) for name, value in map(str.split, text.splitlines())}


@contextmanager
def nats_server(folder: Path, **options: Any) -> Iterator[NatsServer]:
    """Run a server with its stream; kill it afterwards."""
    folder.mkdir(exist_ok=True)
    server = NatsServer(folder, **options)
    server.start()
    try:
        server.set_up()
        yield server
    finally:
        server.kill()
