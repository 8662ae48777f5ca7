"""pve_exporter in its own process: it reads a node's state with the token, and sends the token to this node only."""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.model import Inventory, ProxmoxToken, Secret, ServiceContext
from homelab.paths import bundled_path
from homelab.proxmox.service_tokens import check_token
from homelab.services.pve_exporter import ACCOUNT
from homelab.steps import File
from tests.integration import pg
from tests.integration.fakenode import FakeNode, certificate, serving
from tests.integration.waiting import until_started
from tests.support import FixedSecretStore

AUDITOR = ("Datastore.Audit", "Sys.Audit", "VM.Audit")
START = bundled_path("templates/pve_exporter/start.py")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[FakeNode, str]]:
    """A node with a container that runs and one that is stopped, and its certificate's fingerprint."""
    node = FakeNode(secrets.token_hex(8))
    node.apitokens[ACCOUNT] = FixedSecretStore().secret("pve-exporter").reveal()
    node.grant(ACCOUNT, "/", *AUDITOR)
    node.add_ct(167, name="postgres-data", status="running")
    node.add_ct(168, name="analytics-platform", status="stopped")
    pair, fingerprint = certificate(tmp_path)
    with serving(node, pair):
        yield node, fingerprint


def inventory(folder: Path, port: int, **trust: str) -> Inventory:
    overlay = folder / "overlay.yaml"
    overlay.write_text(
        "containers: {observability: {vmid: 170, ip: .70, cores: 1, memory: 512, services: "
        "{pve_exporter: {host: 127.0.0.1}}}}"
    )
    found = load([bundled_path("inventory.yaml"), overlay])
    return replace(found, endpoint=replace(found.endpoint, port=port, **trust))  # type: ignore[arg-type]


def environment(found: Inventory) -> dict[str, str]:
    """Return the environment that the service writes for its program."""
    container = found.container_with("pve_exporter")
    context = ServiceContext(inventory=found, container=container, secret_store=FixedSecretStore(), host_keys={})
    steps = container.services["pve_exporter"].steps(context)
    (text,) = [s.content.decode() for s in steps if isinstance(s, File) and s.path.endswith("pve-exporter.env")]
    return dict(word.split("=", 1) for word in shlex.split(text, comments=True))


@contextmanager
def running(variables: dict[str, str]) -> Iterator[str]:
    """Run the program as its unit does, and yield its address."""
    address = f"127.0.0.1:{pg.free_port()}"
    words = [sys.executable, "-B", str(START), f"--web.listen-address={address}", "--no-collector.config"]
    words += [f"--no-collector.{name}" for name in ("backup-info", "qdevice", "replication", "subscription")]
    process = subprocess.Popen(words, env={"PATH": os.environ["PATH"], **variables}, stderr=subprocess.DEVNULL)
    try:
        until_started(process, lambda: read(address, "/"), seconds=30)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def read(address: str, path: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}{path}", timeout=20) as answer:
        return str(answer.read().decode())


def test_states_and_sizes_of_the_guests_are_read_over_a_pinned_certificate(
    node: tuple[FakeNode, str], tmp_path: Path
) -> None:
    pve, fingerprint = node
    with running(environment(inventory(tmp_path, pve.port, fingerprint=fingerprint))) as address:
        # A request cannot direct the token to another host.
        lines = read(address, "/pve?target=192.0.2.1:9").splitlines()
    assert 'pve_up{id="lxc/167"} 1.0' in lines
    assert 'pve_up{id="lxc/168"} 0.0' in lines
    assert 'pve_up{id="node/pve"} 1.0' in lines
    assert {each.split("{")[0] for each in lines} >= {
        "pve_version_info",
        "pve_memory_size_bytes",
        "pve_disk_size_bytes",
        "pve_cpu_usage_ratio",
        "pve_uptime_seconds",
        "pve_guest_info",
        "pve_storage_info",
        "pve_node_info",
    }
    assert not [call for call in pve.calls() if not call.startswith("GET ")]


def test_certificate_of_the_ca_file_is_verified(node: tuple[FakeNode, str], tmp_path: Path) -> None:
    pve, _ = node
    variables = environment(inventory(tmp_path, pve.port, ca_file=Path(tmp_path / "pve.crt")))  # type: ignore[arg-type]
    assert variables["HOMELAB_PROXMOX_CA"] == "/etc/homelab/proxmox-ca.pem"
    with running({**variables, "HOMELAB_PROXMOX_CA": str(tmp_path / "pve.crt")}) as address:
        assert "pve_version_info" in read(address, "/pve")


@pytest.mark.parametrize("trust", ["pin", "ca"])
def test_token_is_not_sent_to_another_certificate(tmp_path: Path, trust: str) -> None:
    (tmp_path / "other").mkdir()
    theirs, _ = certificate(tmp_path / "other")
    ours, fingerprint = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*theirs)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.settimeout(10)
                    received.append(secured.recv(1000))
            except OSError:
                received.append(b"")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        pinned = environment(inventory(tmp_path, port, fingerprint=fingerprint))
        by_ca = {**environment(inventory(tmp_path, port)), "HOMELAB_PROXMOX_CA": ours[0]}
        with (
            running(pinned if trust == "pin" else by_ca) as address,
            pytest.raises(urllib.error.HTTPError, match="500"),
        ):
            read(address, "/pve")
        thread.join(10)
    assert received == [b""]


def test_doctor_names_the_lines_for_a_missing_or_refused_token(node: tuple[FakeNode, str], tmp_path: Path) -> None:
    pve, fingerprint = node
    found = inventory(tmp_path, pve.port, fingerprint=fingerprint)
    (token,) = found.container_with("pve_exporter").services["pve_exporter"].proxmox_tokens()
    assert isinstance(token, ProxmoxToken)
    endpoint = replace(found.endpoint, host="127.0.0.1")
    missing = check_token(endpoint, token, None)
    assert (missing.ok, missing.said) == (False, "the secret pve-exporter is not set")
    assert missing.todo == (
        "pveum user add homelab-monitoring@pve --comment homelab",
        "pveum user token add homelab-monitoring@pve exporter --privsep 1",
        "pveum acl modify / --roles PVEAuditor --users homelab-monitoring@pve --tokens "
        "'homelab-monitoring@pve!exporter'",
        "then here, with the value that `token add` has printed: homelab secret set pve-exporter",
    )
    refused = check_token(endpoint, token, Secret("wrong"))
    assert not refused.ok
    assert refused.todo == missing.todo
    right = FixedSecretStore().secret("pve-exporter")
    assert str(check_token(endpoint, token, right).said) == "is accepted, with PVEAuditor"
    pve.acl = {ACCOUNT: [("/", {"VM.Audit"})]}
    lacking = check_token(endpoint, token, right)
    assert lacking.said == "missing, for the token or its user: Datastore.Audit, Sys.Audit on /"
    assert lacking.todo == (missing.todo[2],)
