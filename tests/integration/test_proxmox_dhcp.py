"""Addresses by DHCP, with an in-process node: created, read back, changed, and used by everything in the containers."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.plan import preview
from homelab.commands.trust_host import trust_host
from homelab.errors import HomelabError
from homelab.known_hosts import Pin
from homelab.model import Container, ServiceContext
from homelab.plan import with_leases
from homelab.proxmox import Client, find_guests
from homelab.runtime import container_addresses
from homelab.runtime.container_addresses import locate, located
from homelab.runtime.container_states import container_states
from homelab.runtime.convergence import steps_of
from homelab.runtime.lab_report import report_lab
from homelab.runtime.ssh_client import ssh_argv
from tests.integration.fakenode import inventory_for, serving
from tests.integration.fork_server import runner
from tests.integration.test_proxmox_kill import DeadlyNode, Scene
from tests.integration.test_proxmox_up import NAMES, SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import FixedSecretStore, LocalHost, make_session

ONE, TWO = "postgres-data", "analytics-platform"
ALL = "containers: {postgres-data: {ip: dhcp}, analytics-platform: {ip: dhcp}, airflow-orchestration: {ip: dhcp}}\n"
LAST = f"containers: {{{TWO}: {{ip: dhcp}}}}\n"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_addresses, "_PAUSE", 0.01)


class Reached:
    """A connector that records the addresses that were connected to."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}

    def __call__(self, container: Container, *_: object) -> Any:
        self.addresses[container.name] = str(container.address)
        return _Closing(container.name)


class _Closing(LocalHost):
    def close(self) -> None:
        """See Connection."""


def lines_with(site: Site, service: str, *addresses: str) -> list[str]:
    """Return the lines that contain one of the addresses in the steps of a service's container, after a deploy."""
    inventory = locate(site.inventory)
    keys = {name: f"ssh-ed25519 AAAA{name}" for name in NAMES}
    context = ServiceContext(
        inventory=inventory,
        container=inventory.container_with(service),
        secret_store=FixedSecretStore(),
        host_keys=keys,
    )
    (site.folder / "key").write_text("openweather-key")
    (site.folder / "key").chmod(0o600)
    texts = [text for step in steps_of(context) for text in (*step.probes(), *_content(step))]
    return [line for text in texts for line in text.splitlines() if any(each in line for each in addresses)]


def _content(step: object) -> Sequence[str]:
    content = getattr(step, "content", b"")
    return [content.decode(errors="replace")] if isinstance(content, bytes) else []


def test_containers_get_their_addresses_and_up_waits_for_them(site: Site) -> None:
    site.overlaid(ALL)
    site.pve.without_lease = 4
    done = site.up().done
    assert done[ONE][0].startswith("create postgres-data (167): 1 vCPU, 2048 MiB, 16 GiB, address by DHCP, ubuntu-24")
    assert sorted(site.waited) == sorted(NAMES)
    net0 = dict(part.split("=") for part in site.pve.ct(167).config["net0"].split(","))
    assert (net0["ip"], "gw" in net0) == ("dhcp", False)
    assert [state.address for state in container_states(site.inventory)[0]] == [
        "192.168.2.117",
        "192.168.2.118",
        "192.168.2.119",
    ]
    site.pve.requests.clear()
    assert not site.up()
    assert len(site.pve.requests) <= 5 + len(NAMES), site.pve.calls()


def test_other_commands_connect_to_the_address_that_proxmox_reports(site: Site) -> None:
    reached = Reached()
    site.overlaid(LAST).up()
    session = make_session(site.inventory, site.known_hosts, connector=reached)
    session.connect_to("analytics")
    session.connect_to("postgres")
    assert reached.addresses == {TWO: "192.168.2.118", ONE: "192.168.2.67"}
    site.known_hosts.pin(TWO, Pin("SHA256:x", "ssh-ed25519 AAAA"))
    assert "root@192.168.2.118" in ssh_argv(session, TWO)
    seen: list[str] = []
    trust_host(session, TWO, f"SHA256:{'a' * 43}", shown=lambda address: seen.append(address))
    assert seen == ["192.168.2.118"]


def test_status_reads_each_address_once_and_connects_to_it(site: Site) -> None:
    site.overlaid(LAST).up()
    site.pve.requests.clear()
    tried = set()

    def refuse(container: Container, *_: object) -> Any:
        tried.add(str(container.address))
        raise HomelabError("refused")

    report = report_lab(make_session(site.inventory, site.known_hosts, connector=refuse))
    assert tried == {"192.168.2.67", "192.168.2.118", "192.168.2.69"}
    assert {each.name: each.proxmox.address for each in report.containers}[TWO] == "192.168.2.118"
    assert [call for call in site.pve.calls() if call.endswith("/interfaces")] == ["GET /nodes/pve/lxc/168/interfaces"]


def test_no_command_calls_proxmox_for_fixed_addresses(site: Site) -> None:
    site.up()
    site.pve.requests.clear()
    assert locate(site.inventory) is site.inventory
    make_session(site.inventory, site.known_hosts).connect_to("postgres")
    assert site.pve.requests == []


@pytest.mark.parametrize(
    ("service", "lines"),
    [
        ("postgres", ["scram-sha-256", "scram-sha-256"]),  # pg_hba.conf for both clients
        ("analytics", ["PGHOST=", "restrict,from="]),
        ("airflow", ["PGHOST=", "ssh-ed25519 AAAAanalytics-platform"]),
    ],
)
def test_everything_in_a_container_follows_another_lease(site: Site, service: str, lines: Sequence[str]) -> None:
    site.overlaid(f"{ALL}pipelines: {{weather: {{api_key_file: {site.folder}/key}}}}\n").up()
    before, after = ([f"192.168.2.{each + 117}" for each in range(start, start + 3)] for start in (0, 100))
    assert all(any(each in line for line in lines_with(site, service, *before)) for each in lines)
    first = lines_with(site, service, *before)
    site.pve.leases = {vmid: [f"{address}/24"] for vmid, address in zip((167, 168, 169), after, strict=True)}
    assert lines_with(site, service, *before) == []
    assert len(lines_with(site, service, *after)) == len(first)


def test_plan_names_a_container_whose_address_is_not_known(site: Site) -> None:
    """`deploy` needs the address of analytics-platform in pg_hba.conf, and it does not exist yet."""
    site.overlaid(LAST).up(ONE, "airflow-orchestration")
    session = make_session(site.inventory, site.known_hosts, connector=Reached())
    shown = preview(session)
    assert [line.change.split(":")[0] for line in shown.up] == ["create analytics-platform (168)"]
    assert "does not exist yet" in shown.not_inspected[TWO]
    assert shown.not_inspected[ONE].startswith(f"Cannot use the address of {TWO}: DHCP has not given it one")


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("10.0.0.5/24", "it is outside the subnet 192.168.2.0/24"),
        ("192.168.2.1/24", "it is the gateway's"),
        ("192.168.2.255/24", "or the network or broadcast address of 192.168.2.0/24"),
        ("192.168.2.67/24", "postgres-data has it"),
        ("192.168.2.119/24", "airflow-orchestration has it"),
    ],
)
def test_container_cannot_claim_the_address_of_another_machine_of_the_lab(site: Site, address: str, cause: str) -> None:
    """Root of the container decides on the text that Proxmox reports."""
    site.overlaid(f"containers: {{{TWO}: {{ip: dhcp}}, airflow-orchestration: {{ip: dhcp}}}}\n").up()
    site.pve.leases[168] = [address]
    found = find_guests(Client(site.inventory.endpoint), site.inventory)
    assert with_leases(site.inventory, found).container_with("analytics").known_address is None
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert cause in f"{caught.value.brief} {caught.value.details}"
    with pytest.raises(HomelabError, match="Cannot use the address of analytics-platform"):
        lines_with(site, "postgres", address)


@pytest.mark.parametrize(
    ("prepare", "brief", "resolution"),
    [
        (lambda site: None, "it does not exist", "Run `homelab up`."),
        (lambda site: stopped(site.up() and site), "it is stopped", "Run `homelab up`."),
        (lambda site: no_server(site.up() and site), "DHCP has not given it one", "pct exec 168 -- ip -4 address"),
        (lambda site: fixed(site), "it does not use DHCP yet", "Run `homelab up`."),
    ],
)
def test_missing_address_is_one_error_with_its_cause(site: Site, prepare: Any, brief: str, resolution: str) -> None:
    site.overlaid(LAST)
    prepare(site)
    with pytest.raises(HomelabError) as caught:
        located(site.inventory, site.containers[TWO], 0.05)
    assert caught.value.brief == f"Cannot use the address of {TWO}: {brief}"
    assert resolution in caught.value.resolution


def stopped(site: Site | bool) -> None:
    assert isinstance(site, Site)
    site.pve.ct(168).status = "stopped"


def no_server(site: Site | bool) -> None:
    assert isinstance(site, Site)
    site.pve.leases[168] = ["2001:db8::1/64", "169.254.7.7/16", "no address/x"]


def fixed(site: Site) -> None:
    site.overlaid("").up()
    site.overlaid(LAST)


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("", LAST, "address: 192.168.2.68/24 → dhcp; gateway: 192.168.2.1 → none"),
        (LAST, "", "address: dhcp → 192.168.2.68/24; gateway: none → 192.168.2.1"),
    ],
)
def test_change_from_and_to_dhcp_restarts_the_container(site: Site, before: str, after: str, line: str) -> None:
    """The DHCP client starts and ends with the container; Proxmox shows the new configuration immediately."""
    site.overlaid(before).up()
    assert site.overlaid(after).up().done[TWO] == [
        f"stop {TWO}, to restart it with the new address",
        f"update {TWO}: {line}",
        f"start {TWO}",
    ]
    assert not site.up()


@pytest.mark.parametrize("key", ["bridge: vmbr1", "vlan: 7"])
def test_another_network_restarts_a_container_with_dhcp(site: Site, key: str) -> None:
    """Its DHCP client keeps the address of the old network until the lease ends."""
    site.overlaid(LAST).up()
    done = site.overlaid(f"containers: {{{TWO}: {{ip: dhcp, {key}}}}}\n").up().done[TWO]
    assert [line.split()[0] for line in done] == ["stop", "update", "start"]
    assert not site.up()


def test_vmid_from_the_range_is_found_before_the_address(site: Site) -> None:
    site.overlaid(f"defaults: {{vmid_range: 300-310}}\ncontainers: {{{TWO}: {{ip: dhcp, vmid: null}}}}\n").up()
    assert str(locate(site.inventory).container_with("analytics").address) == "192.168.2.250"
    assert site.inventory.container_with("analytics").vmid == 0
    assert replace(locate(site.inventory), containers=()) == replace(site.inventory, containers=())


FIREWALL = f"defaults: {{firewall: true}}\n{LAST}"


def set_of(site: Site, vmid: int = 168, card: str = "net0") -> list[str] | None:
    """Return the addresses of the IP filter's set, as they are on the node; None without a set."""
    entries = site.pve.firewall_config("ct", vmid=vmid)["ipset"].get(f"ipfilter-{card}")
    return entries if entries is None else [entry["cidr"] for entry in entries]


def options_of(site: Site, vmid: int = 168) -> dict[str, Any]:
    conf: dict[str, Any] = site.pve.firewall_config("ct", vmid=vmid)
    return conf["options"]


def clients_of_postgres(site: Site) -> list[str]:
    rules = site.pve.firewall_config("ct", vmid=167)["rules"]
    return [rule["source"] for rule in rules if rule.get("dport") == "5432"]


def test_address_by_dhcp_is_read_back_into_the_ip_filter_and_the_rules(site: Site) -> None:
    """Otherwise the filter would drop everything, as Proxmox only knows `ip=dhcp`."""
    site.pve.without_lease = 3
    done = site.overlaid(FIREWALL).up().done
    assert set_of(site) == ["192.168.2.118"]
    assert set_of(site, 167) is None, "Proxmox takes a fixed address from the configuration"
    assert options_of(site)["ipfilter"] == 1
    assert clients_of_postgres(site) == ["192.168.2.118", "192.168.2.69"]
    assert any("+ net0 may send from 192.168.2.118" in line for line in done[TWO])
    assert any("+ in ACCEPT tcp 5432 from 192.168.2.118" in line for line in done[ONE])
    assert not site.up()
    assert [state.drift for state in container_states(site.inventory)[0]] == [()] * 3


def test_plan_names_the_rules_that_need_the_address(site: Site) -> None:
    site.overlaid(FIREWALL)
    assert f"{TWO}: DHCP has not given its address yet: then" in str(site.noted())
    site.up()
    assert site.noted() is None


def test_filter_is_never_on_without_the_address(site: Site) -> None:
    """The set is filled before the filter is on, and the filter is off before the set is removed."""
    site.overlaid(FIREWALL)
    answer, seen = site.pve.answer, []

    async def watching(*arguments: Any) -> Any:
        try:
            return await answer(*arguments)
        finally:
            if site.pve.ct(168) is not None and site.pve.ct(168).status == "running":
                seen.append(bool(set_of(site)) or not (options_of(site).get("ipfilter") or set_of(site) == []))

    site.pve.answer = watching
    site.up(TWO)
    site.pve.leases[168] = ["192.168.2.150/24"]
    site.up(TWO)
    del site.pve.answer
    assert len(seen) > 20
    assert seen.count(False) == 1, "Proxmox creates a set without addresses; the next call adds one"


def test_another_lease_replaces_the_address_in_filter_and_rules(site: Site) -> None:
    site.overlaid(FIREWALL).up()
    site.pve.leases[168] = ["192.168.2.150/24"]
    assert site.up().done == {
        ONE: [
            "firewall of postgres-data: + in ACCEPT tcp 5432 from 192.168.2.150 (homelab: PostgreSQL for "
            "analytics-platform); - in ACCEPT tcp 5432 from 192.168.2.118 (homelab: PostgreSQL for analytics-platform)"
        ],
        TWO: ["firewall of analytics-platform: + net0 may send from 192.168.2.150; - net0 may send from 192.168.2.118"],
    }
    assert (set_of(site), clients_of_postgres(site)) == (["192.168.2.150"], ["192.168.2.150", "192.168.2.69"])
    assert not site.up()


@pytest.mark.parametrize("way", ["{ip6: auto}", "{ip6: dhcp}", ""])
def test_ipv6_that_proxmox_does_not_know_is_read_back(site: Site, way: str) -> None:
    """From the inventory, and set by hand."""
    site.pve.leases[168] = ["2001:db8::5/64", "fd00::5/64"]
    site.overlaid(f"containers: {{{TWO}: {way}}}" if way else "").up()
    config = site.pve.ct(168).config
    config["net0"] += "" if way else ",ip6=auto"
    site.overlaid(f"defaults: {{firewall: true}}\ncontainers: {{{TWO}: {way or '{}'}}}").up()
    assert sorted(set_of(site) or ()) == ["2001:db8::5", "fd00::5"]
    assert not site.up()
    site.pve.ct(168).status = "stopped"
    assert site.up().done == {TWO: [f"start {TWO}"]}
    site.pve.ct(168).status = "stopped"
    site.pve.firewall_config("ct", vmid=168)["ipset"]["ipfilter-net0"] = []
    first, *_ = site.up().done[TWO]
    assert first == f"firewall of {TWO}: - net0 may send from no address", "an empty set drops everything"
    site.pve.leases[168] = ["2001:db8::6/64"]
    site.up()
    assert set_of(site) == ["2001:db8::6"]


def test_own_addresses_are_removed_when_the_address_becomes_fixed(site: Site) -> None:
    site.overlaid(FIREWALL).up()
    site.overlaid("defaults: {firewall: true}\n").up()
    assert (set_of(site), options_of(site)["ipfilter"]) == (None, 1)
    assert not site.up()


def test_stopped_container_starts_without_the_filter_of_its_old_address(site: Site) -> None:
    site.overlaid(FIREWALL).up()
    site.pve.ct(168).status = "stopped"
    site.pve.leases[168] = ["192.168.2.150/24"]
    done = site.up().done[TWO]
    assert "IP filter: on → off" in done[0]
    assert "IP filter: off → on" in done[-1]
    assert (set_of(site), options_of(site)["ipfilter"]) == (["192.168.2.150"], 1)
    assert not site.up()


@pytest.mark.parametrize("entries", [[], ["10.9.9.9"], ["192.168.2.118", "192.168.2.67"]])
def test_set_that_was_changed_by_hand_is_restored(site: Site, entries: Sequence[str]) -> None:
    site.overlaid(FIREWALL).up()
    conf = site.pve.firewall_config("ct", vmid=168)
    conf["ipset"]["ipfilter-net0"] = [{"cidr": each} for each in entries]
    assert list(site.up().done) == [TWO]
    assert set_of(site) == ["192.168.2.118"]
    assert not site.up()


@pytest.mark.parametrize("lost", [("POST", "/ipset"), ("POST", "/ipfilter-net0"), ("DELETE", "192.168.2.118")])
def test_lost_answer_of_a_change_of_the_set_is_repeated(site: Site, lost: tuple[str, str]) -> None:
    site.overlaid(FIREWALL)
    site.pve.losing[lost] = 1
    site.up()
    site.pve.leases[168] = ["192.168.2.150/24"]
    site.up()
    assert set_of(site) == ["192.168.2.150"]
    assert site.pve.losing[lost] == 0
    assert not site.up()


CARDS = f"defaults: {{firewall: true}}\ncontainers: {{{TWO}: {{networks: {{net1: {{bridge: vmbr1, ip: dhcp}}}}}}}}\n"


def test_address_of_a_further_network_card_is_read_back_into_its_own_filter(site: Site) -> None:
    site.overlaid(CARDS).up()
    assert "firewall=1" in site.pve.ct(168).config["net1"].split(",")
    assert (set_of(site, card="net1"), set_of(site), options_of(site)["ipfilter"]) == (["10.20.0.118"], None, 1)
    assert not site.up()
    site.pve.leases_of_others[168] = ["10.20.0.150/24"]
    assert site.up().done == {
        TWO: ["firewall of analytics-platform: + net1 may send from 10.20.0.150; - net1 may send from 10.20.0.118"]
    }


@pytest.mark.parametrize(
    "claimed", ["192.168.2.67/24", "192.168.2.119/24", "192.168.2.1/24", "10.20.0.5/24", "2001:db8::67/64"]
)
def test_further_network_card_cannot_claim_an_address_of_another_container(site: Site, claimed: str) -> None:
    """On the same bridge, it could pretend to be the other one."""
    other = "postgres-data: {ip6: '2001:db8::67/64', networks: {net1: {bridge: vmbr1, ip: 10.20.0.5/24}}}"
    ours = f"{TWO}: {{networks: {{net1: {{bridge: vmbr1, ip: dhcp, ip6: auto}}}}}}"
    third = "airflow-orchestration: {ip: dhcp}"
    site.overlaid(f"defaults: {{firewall: true}}\ncontainers: {{{other}, {ours}, {third}}}\n")
    site.pve.leases_of_others[168] = [claimed]
    site.up()
    assert set_of(site, card="net1") is None
    assert options_of(site)["ipfilter"] == 1


def test_network_card_made_by_hand_is_not_added_to_the_filter(site: Site) -> None:
    site.overlaid("defaults: {firewall: true}\n").up()
    site.pve.ct(168).config["net1"] = "name=eth1,bridge=vmbr1,ip=dhcp,firewall=1"
    assert not site.up()
    assert set_of(site, card="net1") is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kept", [[], ["192.168.2.118"]], ids=["first-lease", "another-lease"])
def test_run_that_was_killed_at_any_call_is_completed_by_the_next(
    tmp_path: Path, pair: tuple[tuple[str, str], str], kept: Sequence[str], acts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    pve, hits = DeadlyNode(), []
    with serving(pve, pair[0]), runner() as processes:
        inventory = inventory_for(tmp_path, pve, pair[1], SECRET, FIREWALL)
        place = Scene(pve, inventory, inventory, processes)
        place.succeeds("up", TWO)
        conf = pve.firewall_config("ct", vmid=168)
        pve.leases[168] = ["192.168.2.150/24"]
        if not kept:
            conf["ipset"].clear()
            conf["options"]["ipfilter"] = 0
        before = deepcopy(conf)
        while not hits or hits[-1]:
            conf.clear()
            conf.update(deepcopy(before))
            ended = place.run("up", TWO, deadly=len(hits) + 1, acts=acts)
            hits.append(pve.hit)
            assert ended.status == (-signal.SIGKILL if hits[-1] else 0), (hits[-1], ended)
            if hits[-1].startswith("GET") and acts:
                continue  # the same as before it
            place.succeeds("up", TWO)
            assert place.succeeds("up", TWO).startswith("Nothing to do"), hits[-1]
            assert [entry["cidr"] for entry in conf["ipset"]["ipfilter-net0"]] == ["192.168.2.150"], hits[-1]
            assert conf["options"]["ipfilter"] == 1
    changed = [hit.rpartition("/firewall/")[2] for hit in hits if hit and not hit.startswith("GET")]
    added, removed = "ipset/ipfilter-net0", "ipset/ipfilter-net0/192.168.2.118"
    assert changed == ([added, removed] if kept else ["ipset", added, "options"])
