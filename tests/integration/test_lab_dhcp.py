"""Addresses by DHCP in a real lab: given by its DHCP server, deployed, changed, and enforced by the firewall."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from homelab.commands.deploy import deploy
from homelab.lab import Lab
from homelab.lab.lxc import Runtime
from homelab.model import DatabaseGrant, Service, ServiceContext, Step
from homelab.plan import Plan, plan_up
from homelab.proxmox import Client, find_guests
from homelab.proxmox.property_strings import parse, write
from homelab.runtime.container_addresses import locate
from homelab.runtime.lab_report import report_lab
from tests.integration.lab_fixture import LabFixture, fresh, in_a_lab
from tests.support import with_service

LAB = Lab("leases", IPv4Network("10.99.2.112/28"), "hl-leas", 18186, 8269)
LEASES = ["10.99.2.118", "10.99.2.119"]
DATABASE, READER = "postgres-data", "reader"
OVERLAY = """
defaults: {firewall: true, disk: 4, swap: 0}
containers:
  postgres-data: {ip: .124, cores: 1, memory: 512, services: {postgres: {version: 15}}}
  analytics-platform: null
  airflow-orchestration: null
  reader: {vmid: 180, ip: dhcp, cores: 1, memory: 512, services: {readers: {}}}
"""

pytestmark = in_a_lab()


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers(Service):
    """A service with a role in PostgreSQL."""

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """See Service."""
        return (DatabaseGrant("project_data", "reader", "own", "reading"),)

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """See Service."""
        return ()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabFixture]:
    folder = tmp_path_factory.mktemp("leases")
    with fresh(LAB):
        inventory = with_service(folder, "readers", Readers, OVERLAY, LAB.overlay)
        place = LabFixture(replace(inventory, state_dir=folder / "state"))
        place.up()
        yield place


def address_of(place: LabFixture) -> str:
    """Return the reader's address, as Proxmox reports it."""
    return next(str(c.address) for c in locate(place.inventory).containers if c.name == READER)


def plan_of(place: LabFixture) -> Plan:
    return plan_up(place.inventory, find_guests(Client(place.inventory.endpoint), place.inventory))


def hba_rows(place: LabFixture) -> str:
    return place.run("cat /etc/postgresql/15/main/pg_hba.conf", DATABASE)


_CONNECT = """
import socket, sys
host, port, source = sys.argv[1:]
socket.create_connection((host, int(port)), 2, source_address=(source, 0)).close()
"""


def reaches_the_replay(source: str) -> bool:
    """Check that the reader gets a connection to the lab's weather replay from one of its addresses."""
    words = [sys.executable, "-c", _CONNECT, str(LAB.gateway), str(LAB.replay_port), source]
    inside = ["nsenter", f"--net=/proc/{Runtime(LAB).pid(180)}/ns/net", *words]
    return subprocess.run(inside, capture_output=True, check=False, timeout=30).returncode == 0


def test_container_gets_an_address_of_the_labs_dhcp_server(place: LabFixture) -> None:
    (own,) = re.findall(r"inet ([0-9.]+)/28", place.run("ip -4 address show dev eth0", READER))
    assert own in LEASES
    assert address_of(place) == own
    state = next(each.proxmox for each in report_lab(place.session).containers if each.name == READER)
    assert (state.address, state.drift) == (own, ())
    entries = Client(place.inventory.endpoint).get("nodes/pve/lxc/180/firewall/ipset/ipfilter-net0")
    assert [entry["cidr"] for entry in entries] == [own]
    assert not place.up()


def test_container_cannot_send_from_another_address_than_its_lease(place: LabFixture) -> None:
    runtime = Runtime(LAB)
    runtime.inside(180, "ip", "addr", "add", "10.99.2.123/28", "dev", "eth0")
    try:
        assert reaches_the_replay(address_of(place))
        assert not reaches_the_replay("10.99.2.123")
    finally:
        runtime.inside(180, "ip", "addr", "del", "10.99.2.123/28", "dev", "eth0")


def test_another_lease_is_in_the_plan_of_the_next_deploy_and_followed(place: LabFixture) -> None:
    before = address_of(place)
    assert [report.failure for report in deploy(place.session)] == [None, None]
    assert f"{before}/32" in hba_rows(place)
    assert [change for report in deploy(place.session, dry_run=True) for change in report.changes] == []
    # A network card without its MAC address gets another one, and so another lease.
    client, path = Client(place.inventory.endpoint), "nodes/pve/lxc/180/config"
    client.put(path, net0=write({k: v for k, v in parse(client.get(path)["net0"]).items() if k != "hwaddr"}))
    Runtime(LAB).kill(180)
    lines = [line for each in place.up().done.values() for line in each]
    after = address_of(place)
    assert {before, after} == set(LEASES)
    assert any(f"+ net0 may send from {after}" in line for line in lines)
    assert any(f"+ in ACCEPT tcp 5432 from {after}" in line for line in lines)
    planned = {report.container: report for report in deploy(place.session, dry_run=True)}
    diff = "\n".join(change.pending.diff for change in planned[DATABASE].changes)
    assert re.search(rf"^-.*{before}/32", diff, re.MULTILINE)
    assert re.search(rf"^\+.*{after}/32", diff, re.MULTILINE)
    assert [report.failure for report in deploy(place.session)] == [None, None]
    assert before not in hba_rows(place)
    assert f"{after}/32" in hba_rows(place)
    assert [change for report in deploy(place.session, dry_run=True) for change in report.changes] == []
    assert not place.up()


def test_further_network_card_is_added_to_the_running_container(place: LabFixture, tmp_path: Path) -> None:
    cards = f"networks: {{net1: {{bridge: {LAB.bridge}, ip: 10.99.2.126/32}}}}"
    overlay = OVERLAY.replace("{vmid: 180,", f"{{{cards}, vmid: 180,")
    wanted = with_service(tmp_path, "readers", Readers, overlay, LAB.overlay)
    more = LabFixture(replace(wanted, state_dir=place.inventory.state_dir))
    before = Runtime(LAB).pid(180)
    line = f"update reader: net1: none → {LAB.bridge} 10.99.2.126/32 firewall"
    assert more.up().done == {READER: [line]}
    assert "inet 10.99.2.126/32" in place.run("ip -4 address show dev eth1", READER)
    assert Runtime(LAB).pid(180) == before
    assert not more.up()
    assert "also has net1, missing in the inventory" in str(plan_of(place).notes[0])


def test_dhcp_server_is_bound_to_the_bridge_of_the_lab(place: LabFixture) -> None:
    del place
    printed = subprocess.run(["ss", "-lunH", "sport", "=", ":67"], check=True, capture_output=True, text=True).stdout
    assert [line.split()[3] for line in printed.splitlines() if LAB.bridge in line] == [f"0.0.0.0%{LAB.bridge}:67"]
