"""Object storage in a container: DuckDB over verified TLS, rights, ports, restarts, and its removal."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.lab import Lab
from homelab.runtime.session import Session
from homelab.services.s3 import S3
from tests.integration.lab_fixture import QUIET, fresh, in_a_lab, processes_showing, run_homelab
from tests.integration.waiting import until

LAB = Lab("s3", IPv4Network("10.99.2.32/28"), "hl-s3", 18226, 8309)
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.32/28, gateway: .33, bridge: x}
containers:
  object-storage: {vmid: 211, ip: .36, cores: 1, memory: 1024, disk: 8, services: SERVICES}
  other: {vmid: 212, ip: .37, cores: 1, memory: 256, disk: 4, services: {}}

packages: {security_updates: false}
"""
SERVICES = """{s3: {clients: CLIENTS, reserve: RESERVE, buckets: [exports, photos],
  users: {writer: {write: [exports]}, reader: {read: [exports]}, stranger: {write: [photos]}}}}"""
ADDRESS, PORT = "10.99.2.36", 8333
PYTHON = Path(__file__).parents[2] / ".venv-analytics" / "bin" / "python"
# Runs SQL as a user: the error of the first failed statement, or the last result.
CLIENT = """
import json, sys
import duckdb
from duckdb_extensions import import_extension
folder, endpoint, ca_file, user, key, *statements = json.load(sys.stdin)
connection = duckdb.connect(config={"extension_directory": folder, "autoinstall_known_extensions": "false"})
import_extension("httpfs", con=connection)
connection.load_extension("httpfs")
connection.execute("set global enable_server_cert_verification = true")
connection.execute("set global ca_cert_file = ?", [ca_file])
connection.execute("set global http_retries = 0")
connection.execute(
    f"create secret (type s3, key_id '{user}', secret '{key}', endpoint '{endpoint}', url_style 'path', use_ssl true)"
)
for statement in statements:
    try:
        rows = connection.execute(statement).fetchall()
    except duckdb.Error as error:
        rows = f"error: {error}"
        break
print(json.dumps(rows))
"""
WRITE = "copy (select range as i from range(300000)) to 's3://exports/days/a.parquet'"
COUNT = "select count(*) from 's3://exports/days/*.parquet'"

pytestmark = in_a_lab()


@dataclass
class Folder:
    """A user's folder with an inventory, and homelab's command line in it."""

    path: Path
    clients: str = "lan"
    reserve: str = "100MB"
    has_s3: bool = True

    @property
    def session(self) -> Session:
        """A session on the inventory."""
        return Session.open(load([self.path / "inventory.yaml", LAB.overlay]), QUIET)

    def homelab(self, *words: str, allowed: Sequence[int] = (0,)) -> str:
        """Run a command, check its exit code, and return its output."""
        services = SERVICES.replace("CLIENTS", self.clients).replace("RESERVE", self.reserve) if self.has_s3 else "{}"
        (self.path / "inventory.yaml").write_text(INVENTORY.replace("SERVICES", services))
        return run_homelab(self.path, [LAB.overlay], words, expect=allowed).stdout

    def deploy(self) -> list[str]:
        """Deploy; return the changes."""
        return [each for report in json.loads(self.homelab("deploy", "--json")) for each in report["changes"]]

    def on(self, container: str, command: str) -> str:
        """Run shell text in a container as root."""
        return self.homelab("ssh", container, "--", command).strip()

    def health(self) -> str:
        """Return the state of the service in `homelab status`."""
        report = json.loads(self.homelab("status", "--json", allowed=(0, 1)))
        ((service,),) = [each["services"] for each in report["containers"] if each["name"] == "object-storage"]
        return f"{service['health']['healthy']}: {service['health']['summary']}"

    def key(self, user: str) -> str:
        """Return the secret key of a user."""
        return self.session.secrets.secret(f"s3-{user}").reveal()

    def duckdb(self, user: str, *statements: str, key: str = "", ca: str = "") -> object:
        """Run SQL in DuckDB as a user of the storage, on this machine."""
        authority = self.session.secrets.known_authority()
        assert authority
        (self.path / "ca.crt").write_text(ca or authority.certificate)
        words = [str(self.path / "extensions"), f"{ADDRESS}:{PORT}", str(self.path / "ca.crt")]
        text = json.dumps([*words, user, key or self.key(user), *statements])
        done = subprocess.run(
            [PYTHON, "-c", CLIENT], input=text, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def open_ports(self, container: str = "other") -> list[int]:
        """Return the ports of the storage's container that answer another container."""
        ports = self.on("object-storage", "ss -Htln | awk '{print $4}' | sed 's/.*://' | sort -un").split()
        assert {str(PORT), "8334", "8888", "9333", "18334", "9327"} <= {*ports}, ports
        knock = "timeout 2 bash -c '</dev/tcp/%s/'$port 2>/dev/null && echo $port"
        text = self.on(container, f"for port in {' '.join(ports)}; do {knock % ADDRESS}; done; true")
        return [int(each) for each in text.split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = Folder(tmp_path_factory.mktemp("home"))
    with fresh(LAB):
        folder.homelab("up", "--yes")
        folder.deploy()
        yield folder


def test_second_deploy_changes_nothing(folder: Folder) -> None:
    assert folder.deploy() == []
    assert folder.health().startswith("True: 2 buckets with")


def test_duckdb_writes_and_reads_over_verified_tls(folder: Folder) -> None:
    assert folder.duckdb("writer", WRITE, COUNT) == [[300000]]
    assert folder.duckdb("reader", COUNT) == [[300000]]


def test_script_of_the_documentation_works(folder: Folder) -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "object-storage.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    variables = {
        "S3_URL": "s3://exports/script",
        "S3_ENDPOINT": f"{ADDRESS}:{PORT}",
        "S3_REGION": "us-east-1",
        "S3_URL_STYLE": "path",
        "S3_CA_FILE": str(folder.path / "ca.crt"),
        "S3_ACCESS_KEY_ID": "writer",
        "S3_SECRET_ACCESS_KEY": folder.key("writer"),
    }
    subprocess.run([PYTHON, "-c", script], env=os.environ | variables, check=True, timeout=60)
    assert folder.on("object-storage", "homelab-s3 'fs.ls /buckets/exports/script'") == "example.parquet"
    folder.on("object-storage", "homelab-s3 lock 'volume.vacuum -garbageThreshold 0.01' unlock")


def test_wrong_certificate_key_and_bucket_are_refused(folder: Folder, tmp_path: Path) -> None:
    key, authority = tmp_path / "key", tmp_path / "ca"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=other", "-keyout"]
    subprocess.run(["openssl", *words, key, "-out", authority], check=True, capture_output=True)
    assert "SSL" in str(folder.duckdb("writer", COUNT, ca=authority.read_text()))
    assert "403" in str(folder.duckdb("writer", COUNT, key="wrong"))
    assert "403" in str(folder.duckdb("stranger", COUNT))
    assert "403" in str(folder.duckdb("reader", WRITE.replace("a.parquet", "b.parquet")))
    assert "403" in str(folder.duckdb("writer", WRITE.replace("exports", "photos")))
    assert folder.duckdb("writer", COUNT) == [[300000]]
    plain = f"exec 3<>/dev/tcp/{ADDRESS}/{PORT}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; timeout 5 head -c 300 <&3"
    assert "HTTPS" in folder.on("other", f"bash -c {shlex.quote(plain)} || true")


def test_status_of_an_endpoint_verifies_its_certificate(folder: Folder) -> None:
    (probe,) = S3(endpoint=f"https://{ADDRESS}:{PORT}").health_probes()
    assert "certificate verify failed" in folder.on("object-storage", f"{probe} 2>&1 || true")
    trusting = probe.replace("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/homelab/ca.crt")
    assert folder.on("object-storage", trusting) == "403"


def test_only_the_declared_ports_are_open_and_no_process_shows_a_key(folder: Folder) -> None:
    assert folder.open_ports() == [22, PORT]
    metrics = (
        f"python3 -c 'import urllib.request as r; print(r.urlopen(\"http://{ADDRESS}:9327/metrics\").read().decode())'"
    )
    assert "SeaweedFS_s3_request_total" in folder.on("object-storage", metrics)
    assert folder.on("object-storage", processes_showing(folder.key("writer"))) == ""
    assert folder.on("object-storage", "stat -c %U:%G:%a /etc/homelab/s3.json") == "root:homelab-s3:640"
    folder.on("object-storage", "systemd-analyze security --no-pager --threshold=30 homelab-s3.service")
    folder.on("object-storage", "systemd-analyze security --no-pager --threshold=30 homelab-s3-proxy.service")


def test_kill_keeps_the_objects(folder: Folder) -> None:
    folder.duckdb("writer", WRITE.replace("a.parquet", "b.parquet"))
    folder.on("object-storage", "systemctl kill --signal=KILL homelab-s3.service")
    until(lambda: folder.health().startswith("True"))
    assert folder.duckdb("writer", COUNT) == [[600000]]


def test_restarted_storage_with_a_full_disk_reads_and_refuses_writes(folder: Folder) -> None:
    folder.reserve = "900TB"
    folder.deploy()
    assert folder.duckdb("writer", COUNT) == [[600000]]
    assert folder.health().startswith("False: full: only reads")
    until(lambda: "error" in str(folder.duckdb("writer", WRITE.replace("a.parquet", "c.parquet"))))


def test_storage_of_the_stack_is_closed_to_others(folder: Folder) -> None:
    folder.clients = "stack"
    folder.deploy()
    assert folder.open_ports() == [22]
    assert folder.health().startswith("False: full")


def test_removal_stops_it_and_keeps_the_objects_until_prune(folder: Folder) -> None:
    folder.has_s3 = False
    folder.deploy()
    assert folder.on("object-storage", f"ss -Htln sport = :{PORT}; ls -d /opt/homelab/s3/venv* || true") == ""
    assert folder.on("object-storage", "systemctl is-active homelab-s3-proxy || true") == "inactive"
    assert folder.on("object-storage", "ls -d /var/lib/homelab-s3/filerldb*")
    assert folder.homelab("prune", "s3", "--yes") == "1 deleted\n"
    assert folder.on("object-storage", "ls -d /var/lib/homelab-s3 || echo removed") == "removed"
