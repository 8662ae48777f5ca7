"""The firewall in a real lab: packets between containers with the firewall on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.destroy import destroy
from homelab.commands.up import up
from homelab.errors import HomelabError
from homelab.inventory import load
from homelab.lab import Lab
from homelab.lab import up as lab_up
from homelab.lab.host_firewall import TABLE
from homelab.lab.lxc import Runtime
from homelab.lab.process import running
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.proxmox import Client
from homelab.proxmox.property_strings import parse
from homelab.runtime.container_changes import Outcome
from homelab.runtime.session import Session
from tests.e2e import spoof
from tests.integration.lab_fixture import QUIET, fresh, in_a_lab
from tests.integration.waiting import until

# A lab of this file's own, so that it may run in parallel with a demo and the end-to-end tests.
LAB = Lab("walls", IPv4Network("10.99.2.96/28"), "hl-wall", 18076, 8159)
SMALL = """
defaults: {disk: 4, swap: 0}
containers:
  postgres-data: {ip: .107, cores: 1, memory: 512}
  analytics-platform: {ip: .108, cores: 1, memory: 512}
  airflow-orchestration: {ip: .109, cores: 1, memory: 1024}
"""
ON = "defaults: {firewall: true}\n"
DATABASE, LAKE, FLOW, HOST = 167, 168, 169, 0
ADDRESSES = {DATABASE: "10.99.2.107", LAKE: "10.99.2.108", FLOW: "10.99.2.109"}

pytestmark = in_a_lab()

_KNOCK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()
    print("open")
except ConnectionRefusedError:
    print("refused")
except OSError:
    print("dropped")
"""
_PING = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
    raw.settimeout(1)
    raw.sendto(bytes.fromhex("0800" "f7fe" "0001" "0000"), (sys.argv[1], 0))
    while raw.recv(100)[20:22] != bytes.fromhex("0000"):
        pass
"""
_SERVE = """
import socket
with socket.create_server(("", 5432)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""


def inside(vmid: int, *argv: str) -> list[str]:
    """Return the command that runs a program in a container's network, or in this machine's own for HOST."""
    return [*([] if vmid == HOST else ["nsenter", f"--net=/proc/{Runtime(LAB).pid(vmid)}/ns/net"]), *argv]


def knock(source: int, target: int, port: int) -> str:
    """Try a connection; return `open`, `refused` by the target, or `dropped` on the way."""
    done = subprocess.run(
        inside(source, sys.executable, "-c", _KNOCK, ADDRESSES[target], str(port)),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def pings(source: int, target: int) -> bool:
    return (
        subprocess.run(
            inside(source, sys.executable, "-c", _PING, ADDRESSES[target]), check=False, capture_output=True
        ).returncode
        == 0
    )


@contextmanager
def database() -> Iterator[None]:
    """Run a server on postgres-data's port 5432."""
    process = subprocess.Popen(inside(DATABASE, sys.executable, "-c", _SERVE), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait(10)


@dataclass
class Place:
    """A lab and its inventory."""

    folder: Path
    inventory: Inventory = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "inventory.yaml").write_text(bundled_path("inventory.yaml").read_text())
        (self.folder / "small.yaml").write_text(SMALL)

    def up(self, overlay: str, *limit: str) -> Outcome:
        """Run `homelab up --yes` with an overlay; waits for SSH to started containers."""
        over = self.folder / "over.yaml"
        over.write_text(overlay)
        self.inventory = load([self.folder / "inventory.yaml", LAB.overlay, self.folder / "small.yaml", over])
        return up(Session.open(self.inventory, QUIET), confirm=lambda plan: True, limit=limit)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with fresh(LAB):
        place = Place(tmp_path_factory.mktemp("walls"))
        place.up(ON)
        yield place
        destroy(Session.open(place.inventory, QUIET), confirm=lambda plan: True)


@contextmanager
def continuous_ssh() -> Iterator[list[bool]]:
    """Open SSH connections to postgres-data one after the other, and record their success."""
    seen, over = [], threading.Event()

    def keep_knocking() -> None:
        while not over.is_set():
            seen.append(knock(HOST, DATABASE, 22) == "open")

    thread = threading.Thread(target=keep_knocking)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(10)


# (source, target, port) → result. `refused`: the firewall accepts the packet, but no process listens.
CLOSED: Mapping[tuple[int, int, int], str] = {
    (LAKE, DATABASE, 5432): "open",
    (FLOW, DATABASE, 5432): "open",
    (HOST, DATABASE, 5432): "dropped",
    (HOST, DATABASE, 22): "open",
    (LAKE, DATABASE, 22): "dropped",
    (FLOW, DATABASE, 22): "dropped",
    (FLOW, LAKE, 22): "open",
    (HOST, LAKE, 22): "open",
    (DATABASE, LAKE, 22): "dropped",
    (HOST, FLOW, 8080): "refused",
    (DATABASE, FLOW, 8080): "refused",
    (LAKE, FLOW, 22): "dropped",
    (LAKE, FLOW, 9999): "dropped",
    (DATABASE, DATABASE, 9999): "refused",
}


def knock_all() -> dict[tuple[int, int, int], str]:
    with ThreadPoolExecutor(8) as pool:
        return dict(zip(CLOSED, pool.map(lambda knocking: knock(*knocking), CLOSED), strict=True))


def test_firewall_accepts_only_declared_traffic(place: Place) -> None:
    with database():
        assert knock_all() == CLOSED
    assert pings(LAKE, DATABASE)
    assert pings(HOST, FLOW)
    # Answers to their own connections are accepted.
    ask = f"import urllib.request as u; print(u.urlopen('{LAB.replay_url}/healthz', timeout=5).status)"
    answer = subprocess.run(inside(LAKE, sys.executable, "-c", ask), check=True, capture_output=True, text=True)
    assert answer.stdout == "200\n"
    assert not place.up(ON)


@pytest.mark.parametrize(("overlay", "reaches"), [(ON, False), ("", True)], ids=["on", "off"])
def test_container_cannot_claim_the_address_of_another_one(place: Place, overlay: str, reaches: bool) -> None:
    place.up(overlay)
    victim, thief = mac_of(place, LAKE), mac_of(place, FLOW)
    pings(LAKE, DATABASE)
    spoofing = spoof.begin(inside(FLOW), ADDRESSES[DATABASE], ADDRESSES[LAKE], victim, "none")
    time.sleep(1)  # ten claims
    command = inside(LAKE, "ip", "-json", "neigh", "show", ADDRESSES[DATABASE])
    (seen,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    spoofing.communicate(timeout=30)
    subprocess.run(inside(LAKE, "ip", "neigh", "flush", "all"), check=True)  # else the next test reaches the thief
    assert (seen["lladdr"] == thief) is reaches
    place.up(ON)


def mac_of(place: Place, vmid: int) -> str:
    """Return the MAC address of a container."""
    config = Client(place.inventory.endpoint).get(f"nodes/pve/lxc/{vmid}/config")
    return parse(config["net0"])["hwaddr"].lower()


def test_changes_apply_immediately_without_interrupting_ssh(place: Place) -> None:
    with database(), continuous_ssh() as seen:
        place.up(ON + "containers: {airflow-orchestration: {services: {airflow: {port: 9999}}}}")
        assert (knock(LAKE, FLOW, 9999), knock(LAKE, FLOW, 8080)) == ("refused", "dropped")
        # By hand, open a port and remove Airflow's rule. The next run reverts both.
        client = Client(place.inventory.endpoint)
        rules = "nodes/pve/lxc/167/firewall/rules"
        client.delete(f"{rules}/2")
        client.post(rules, type="in", action="ACCEPT", proto="tcp", dport="5432", source=str(LAB.gateway), enable=1)
        assert (knock(HOST, DATABASE, 5432), knock(FLOW, DATABASE, 5432)) == ("open", "dropped")
        place.up(ON)
        assert knock_all() == CLOSED
        place.up("")
        assert (knock(HOST, DATABASE, 5432), knock(LAKE, FLOW, 9999)) == ("open", "refused")
        place.up(ON)
        assert knock_all() == CLOSED
    assert all(seen)
    assert len(seen) > 20


def test_firewall_is_active_after_a_reboot_from_inside(place: Place) -> None:
    before = Runtime(LAB).pid(DATABASE)
    subprocess.run(["lxc-attach", "-P", LAB.lxcpath, "-n", str(DATABASE), "--", "reboot"], check=True, timeout=30)
    until(lambda: Runtime(LAB).pid(DATABASE) not in (None, before) and knock(HOST, DATABASE, 22) == "open")
    assert knock(LAKE, DATABASE, 22) == "dropped"
    assert knock(LAKE, DATABASE, 5432) == "refused"
    tables = subprocess.run(inside(DATABASE, "nft", "list", "tables"), check=True, capture_output=True, text=True)
    assert sorted(tables.stdout.splitlines()) == [f"table inet {TABLE}", f"table netdev {TABLE}"]


def test_firewall_adds_no_table_to_this_machine(place: Place) -> None:
    tables = subprocess.run(["nft", "list", "tables"], check=True, capture_output=True, text=True).stdout
    assert TABLE not in tables


def test_killed_node_restores_the_firewall(place: Place) -> None:
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)
    lab_up(LAB, QUIET)
    assert not place.up(ON)
    assert knock(LAKE, DATABASE, 22) == "dropped"


def test_unsupported_rules_are_refused(place: Place) -> None:
    client = Client(place.inventory.endpoint)
    for rule in ({"type": "in", "action": "ACCEPT", "macro": "SSH"}, {"type": "group", "action": "web"}):
        with pytest.raises(HomelabError, match="it refused the call") as caught:
            client.post("nodes/pve/lxc/167/firewall/rules", **rule)
        assert "501" in caught.value.details
    assert not place.up(ON)
