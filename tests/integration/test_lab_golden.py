"""Golden containers in a real lab: create one, clone another container from it, and compare their identities."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from homelab.commands import golden
from homelab.known_hosts import fingerprint
from homelab.lab import Lab, up
from homelab.lab.lxc import Runtime
from homelab.lab.process import running
from homelab.proxmox import Client
from tests.integration.lab_fixture import QUIET, LabFixture, in_a_lab, lab_with

LAB = Lab("goldtest", IPv4Network("10.99.2.16/28"), "hl-gold", 18066, 8149)
SOURCE, CLONE = "postgres-data", "second"
INVENTORY = """
lab: x
proxmox: {host: x, token_id: homelab@pve!x}
network: {subnet: 10.99.2.16/28, gateway: .17, bridge: x}
containers:
  postgres-data: {vmid: 120, ip: .20, cores: 1, memory: 512, disk: 4, services: {postgres: {version: 15}}}
  second: {vmid: 121, ip: .21, cores: 1, memory: 256, disk: 6, clone_from: postgres-data}
pipelines: {weather: {cities: ["Newark,US"]}}
"""
LITTER = """set -e
mkdir -p /var/log/journal/0123456789abcdef0123456789abcdef
echo secret | tee /var/log/app.log /var/log/app.log.1 /root/.bash_history /srv/data >/dev/null
chown daemon /srv/data; ln -f /srv/data /srv/same
echo old >/var/log/journal/0123456789abcdef0123456789abcdef/system.journal
sync"""
LEFT = (
    "cat /var/log/app.log /var/log/app.log.1 /root/.bash_history 2>/dev/null; "
    "ls /var/log/journal/0123456789abcdef0123456789abcdef; ls -d /etc/ssh/homelab-new; true"
)

pytestmark = in_a_lab()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    with lab_with(LAB, tmp_path_factory.mktemp("golden"), INVENTORY) as box:
        yield box


def test_clone_has_its_own_identity_and_the_sources_data(home: LabFixture) -> None:
    home.up(SOURCE)
    home.run(LITTER, SOURCE)
    golden.create(home.session, SOURCE, confirm=lambda lines: True)
    assert home.run("cat /srv/data", SOURCE) == "secret"

    assert "clone second (121)" in str(home.up(CLONE))
    facts = "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2"
    (old_id, *old_keys), (new_id, *new_keys) = (home.run(facts, name).splitlines() for name in (SOURCE, CLONE))
    assert len(new_id) == 32
    assert old_id != new_id
    assert {key.split()[0] for key in new_keys} == {key.split()[0] for key in old_keys}
    assert not set(new_keys) & set(old_keys)
    for name, address in ((SOURCE, "10.99.2.20"), (CLONE, "10.99.2.21")):
        shown = subprocess.run(
            ["ssh-keyscan", "-T", "5", "-t", "ed25519", address], capture_output=True, text=True, check=True
        ).stdout
        assert fingerprint(shown.split(" ", 1)[1]) == home.known_hosts.pins()[name].fingerprint
    assert home.run("hostname; ip -br -4 addr show eth0", CLONE).split()[::3] == [CLONE, "10.99.2.21/28"]
    # Running services use the new machine-id, too.
    assert home.run("journalctl -n 1 -o export | grep ^_MACHINE_ID=", CLONE) == f"_MACHINE_ID={new_id}"
    assert home.run(LEFT, CLONE) == ""
    # The rest is the same: content, owners, links.
    assert home.run("cat /srv/same; stat -c '%U %h' /srv/data", CLONE).split() == ["secret", "daemon", "2"]
    assert str(home.up()) == "Nothing to do: 2 containers match the inventory and run."


def test_killed_node_removes_an_unfinished_clone(home: LabFixture) -> None:
    client = Client(home.inventory.endpoint)
    (vmid,) = [row["vmid"] for row in client.get("nodes/pve/lxc") if row.get("template")]
    client.post(f"nodes/pve/lxc/{vmid}/clone", newid=199, full=True)
    assert client.get("nodes/pve/lxc/199/config")["lock"] == "create"
    node = running(LAB.pid_file("node"))
    assert node is not None
    os.kill(node, signal.SIGKILL)
    while running(LAB.pid_file("node")):
        time.sleep(0.05)
    up(LAB, QUIET)
    assert {int(row["vmid"]) for row in client.get("nodes/pve/lxc")} == {120, 121, vmid}
    assert not Runtime(LAB).root(199).parent.exists()
    assert "lock" not in client.get(f"nodes/pve/lxc/{vmid}/config")


def test_golden_container_cannot_be_started(home: LabFixture) -> None:
    client = Client(home.inventory.endpoint)
    (row,) = [row for row in client.get("nodes/pve/lxc") if row.get("template")]
    assert row["name"] == "golden-postgres-data"
    upid = client.post(f"nodes/pve/lxc/{row['vmid']}/status/start")
    while (status := client.get(f"nodes/pve/tasks/{upid}/status"))["status"] != "stopped":
        time.sleep(0.05)
    assert status["exitstatus"] == "you can't start a CT if it's a template"
    golden.delete(home.session, SOURCE, confirm=lambda lines: True)
    assert {row["vmid"] for row in client.get("nodes/pve/lxc")} == {120, 121}
