"""The containers' firewall with an in-process node: switched on, unchanged, changed, switched off."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.doctor import doctor
from homelab.errors import HomelabError
from homelab.model import Inventory
from homelab.model.firewall import desired_firewall
from homelab.proxmox import Client, firewall_api
from homelab.runtime.container_states import container_states
from homelab.runtime.plan_lines import plan_lines
from tests.integration.fakenode import inventory_for, serving
from tests.integration.fork_server import runner
from tests.integration.test_proxmox_kill import DeadlyNode, Scene
from tests.integration.test_proxmox_plan import look
from tests.integration.test_proxmox_up import SECRET, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

ONE = "postgres-data"
ON = "defaults: {firewall: true}\n"
OPERATOR = "192.168.2.50"
# A rule made in the web interface, as Proxmox stores it.
MINE = {"type": "in", "action": "ACCEPT", "proto": "tcp", "dport": "80", "enable": 1, "log": "nolog"}
DENY = {"type": "in", "action": "DROP", "enable": 1}


def firewall_of(site: Site | Scene, vmid: int = 167) -> dict[str, Any]:
    """Return a container's firewall on the node."""
    conf: dict[str, Any] = site.pve.firewall_config("ct", vmid=vmid)
    return conf


def matches_inventory(site: Site, *limit: str) -> bool:
    """Check that every container has the wanted firewall and the flag on its network card."""
    client = Client(site.inventory.endpoint)
    return all(
        firewall_api.read(client, "pve", c.vmid) == desired_firewall(site.inventory, c)
        and ("firewall=1" in site.pve.ct(c.vmid).config["net0"].split(",")) is c.shape.firewall
        for c in site.inventory.containers
        if not limit or c.name in limit
    )


def lets_in(site: Site | Scene, port: int, source: str, vmid: int = 167) -> bool:
    """Evaluate a packet as Proxmox does: the first matching rule decides, otherwise the policy."""
    conf, net0 = firewall_of(site, vmid), site.pve.ct(vmid).config["net0"].split(",")
    if not conf["options"].get("enable") or "firewall=1" not in net0:
        return True
    for rule in conf["rules"]:
        if (
            rule.get("enable")
            and rule["type"] == "in"
            and rule.get("proto", "tcp") == "tcp"
            and rule.get("dport") in (None, str(port))
            and ("source" not in rule or ip_address(source) in ip_network(rule["source"]))
        ):
            return str(rule["action"]) == "ACCEPT"
    return str(conf["options"].get("policy_in", "DROP")) == "ACCEPT"


@contextmanager
def watched(site: Site | Scene, port: int = 22, source: str = OPERATOR) -> Iterator[list[bool]]:
    """Record after every call if a packet reaches postgres-data."""
    seen: list[bool] = []
    answer = site.pve.answer

    async def watching(*arguments: Any) -> Any:
        try:
            return await answer(*arguments)
        finally:
            if site.pve.ct(167) is not None and "net0" in site.pve.ct(167).config:
                seen.append(lets_in(site, port, source))

    site.pve.answer = watching
    try:
        yield seen
    finally:
        del site.pve.answer


def calls(site: Site, *methods: str) -> list[str]:
    return [call.removeprefix("/nodes/pve/lxc") for call in site.pve.calls() if call.split()[0] in methods]


def test_new_containers_get_their_firewall(site: Site) -> None:
    outcome = site.overlaid(ON).up()
    assert outcome.done[ONE][1].startswith("firewall of postgres-data: + in ACCEPT tcp 22 from 192.168.2.0/24 ")
    assert matches_inventory(site)
    options = {"enable": 1, "policy_in": "DROP", "policy_out": "ACCEPT", "macfilter": 1, "ipfilter": 1}
    assert firewall_of(site)["options"] == options
    ours = firewall_of(site)["rules"]
    assert [(rule["enable"], rule.get("dport"), rule.get("source"), rule["comment"]) for rule in ours] == [
        (1, "22", "192.168.2.0/24", "homelab: SSH for the operator"),
        (1, "5432", "192.168.2.68", "homelab: PostgreSQL for analytics-platform"),
        (1, "5432", "192.168.2.69", "homelab: PostgreSQL for airflow-orchestration"),
        (1, None, None, "homelab: ping"),
    ]
    assert lets_in(site, 5432, "192.168.2.69")
    assert not lets_in(site, 5432, OPERATOR)
    site.pve.requests.clear()
    assert not site.up()
    # At most three more calls per container (options, rules), and one for the datacenter's switch.
    assert len(site.pve.requests) <= 5 + 2 * 3 + 1, site.pve.calls()
    assert calls(site, "POST", "PUT", "DELETE") == []


def test_firewall_is_off_by_default_without_extra_calls(site: Site) -> None:
    site.up()
    site.pve.requests.clear()
    assert not site.up()
    assert len(site.pve.requests) <= 5
    assert [call for call in site.pve.calls() if "firewall" in call] == []
    assert "firewall" not in site.pve.ct(167).config["net0"]


def test_switching_on_never_interrupts_ssh(site: Site) -> None:
    site.up()
    # Rules that would drop all traffic as soon as the network card's flag is set.
    firewall_of(site).update(options={"enable": 1, "policy_in": "DROP"}, rules=[dict(DENY)])
    site.overlaid(ON)
    with watched(site) as seen:
        outcome = site.up(ONE)
    assert all(seen)
    assert len(seen) > 12
    assert [line.split(":")[0] for line in outcome.done[ONE]] == ["firewall of postgres-data", "update postgres-data"]
    shown = [(line.change, line.effect) for line in plan_lines(site.asked[-1])]
    assert shown[:2] == [
        ("firewall of postgres-data: + in ACCEPT tcp 22 from 192.168.2.0/24 (homelab: SSH for the operator)", "live"),
        (
            "firewall of postgres-data: + in ACCEPT tcp 5432 from 192.168.2.68 (homelab: PostgreSQL for "
            "analytics-platform)",
            "live",
        ),
    ]
    assert shown[4:] == [
        ("firewall of postgres-data: - in DROP", "live"),
        ("firewall of postgres-data: IP filter: off → on", "live"),
        ("update postgres-data: firewall: False → True", "live"),
    ]
    assert matches_inventory(site, ONE)
    assert site.pve.ct(167).status == "running"
    assert site.pve.kinds().count("vzshutdown") == 0


def without(port: str) -> Callable[[dict[str, Any]], None]:
    return lambda conf: conf.update(rules=[rule for rule in conf["rules"] if rule.get("dport") != port])


DRIFT: dict[str, tuple[Callable[[dict[str, Any]], None], list[str]]] = {
    "a rule more": (lambda conf: conf["rules"].insert(2, dict(MINE)), ["- in ACCEPT tcp 80 log=nolog"]),
    "one that refuses": (lambda conf: conf["rules"].insert(0, dict(DENY)), ["- in DROP"]),
    "rules less": (
        without("5432"),
        [
            "+ in ACCEPT tcp 5432 from 192.168.2.68 (homelab: PostgreSQL for analytics-platform)",
            "+ in ACCEPT tcp 5432 from 192.168.2.69 (homelab: PostgreSQL for airflow-orchestration)",
        ],
    ),
    "none at all": (lambda conf: conf.update(rules=[]), ["+ ", "+ ", "+ ", "+ "]),
    "one disabled": (lambda conf: conf["rules"][0].update(enable=0), ["+ in ACCEPT tcp 22 from 192.168.2.0/24", "- "]),
    "one opened": (lambda conf: conf["rules"][1].pop("source"), ["+ ", "- in ACCEPT tcp 5432 (homelab:"]),
    "one twice": (lambda conf: conf["rules"].append(conf["rules"][0]), ["- in ACCEPT tcp 22 from 192.168.2.0/24"]),
    "another order": (lambda conf: conf["rules"].reverse(), ["reorder its rules"]),
    "open by default": (lambda conf: conf["options"].update(policy_in="ACCEPT"), ["policy in: ACCEPT → DROP"]),
    "nothing out": (lambda conf: conf["options"].update(policy_out="REJECT"), ["policy out: REJECT → ACCEPT"]),
    "spoofed addresses": (lambda conf: conf["options"].update(ipfilter=0), ["IP filter: off → on"]),
    "spoofed MAC": (lambda conf: conf["options"].update(macfilter=0), ["MAC filter: off → on"]),
    "off": (lambda conf: conf["options"].update(enable=0), ["off → on"]),
    "off, and nothing let in": (
        lambda conf: conf.update(options={}, rules=[dict(DENY)]),
        ["+ ", "+ ", "+ ", "+ ", "- in DROP", "IP filter: off → on", "off → on"],
    ),
}


@pytest.mark.parametrize(("drift", "expected"), DRIFT.values(), ids=DRIFT)
def test_drift_is_shown_and_reverted(
    site: Site, drift: Callable[[dict[str, Any]], None], expected: Sequence[str]
) -> None:
    site.overlaid(ON).up(ONE)
    drift(firewall_of(site))
    (difference,) = container_states(site.inventory)[0][0].drift
    assert str(difference) == f"firewall: {len(expected)} rules or settings differ → as in the inventory"
    with watched(site) as seen:
        site.up(ONE)
    shown = [line.change.removeprefix("firewall of postgres-data: ") for line in plan_lines(site.asked[-1])]
    assert all(line.startswith(start) for line, start in zip(shown, expected, strict=True)), shown
    assert matches_inventory(site, ONE)
    assert seen[seen.index(True) :].count(False) == 0, "SSH was cut off in between"
    assert seen[-1]
    assert not site.up(ONE)


def test_removed_firewall_flag_is_restored(site: Site) -> None:
    site.overlaid(ON).up(ONE)
    config = site.pve.ct(167).config
    config["net0"] = config["net0"].replace(",firewall=1", "")
    assert site.up(ONE).done[ONE] == ["update postgres-data: firewall: False → True"]
    assert matches_inventory(site, ONE)


def test_new_port_or_address_changes_only_its_rules(site: Site) -> None:
    site.overlaid(ON).up()
    site.pve.requests.clear()
    site.overlaid(ON + "containers: {airflow-orchestration: {services: {airflow: {port: 9090}}}}").up()
    assert calls(site, "POST", "PUT", "DELETE") == [
        "POST /nodes/pve/lxc/169/firewall/rules",
        "DELETE /nodes/pve/lxc/169/firewall/rules/2",
        "PUT /nodes/pve/lxc/169/firewall/rules/1",
    ]
    assert matches_inventory(site)
    before = deepcopy(firewall_of(site)["rules"])
    site.overlaid(ON + "containers: {airflow-orchestration: {ip: .79}}").up()
    after = firewall_of(site)["rules"]
    assert [old["source"] for old, new in zip(before[:3], after[:3], strict=True) if old != new] == ["192.168.2.69"]
    assert {rule.get("source") for rule in firewall_of(site, 168)["rules"]} == {"192.168.2.0/24", "192.168.2.79", None}


def test_switching_off_keeps_foreign_rules(site: Site) -> None:
    site.overlaid(ON).up(ONE)
    firewall_of(site)["rules"].insert(1, dict(MINE))
    with watched(site) as seen:
        outcome = site.overlaid("").up(ONE)
    assert all(seen)
    assert outcome.done[ONE][0].endswith("(homelab: ping); on → off")
    assert outcome.done[ONE][1] == "update postgres-data: firewall: True → False"
    assert firewall_of(site)["rules"] == [MINE]
    assert firewall_of(site)["options"]["enable"] == 0
    assert "firewall" not in site.pve.ct(167).config["net0"]
    site.pve.requests.clear()
    assert not site.up(ONE)
    assert [call for call in site.pve.calls() if "firewall" in call] == []


def test_change_after_the_plan_is_not_overwritten(site: Site) -> None:
    site.overlaid(ON).up(ONE)
    firewall_of(site)["rules"].pop()

    def meanwhile(plan: object) -> bool:
        firewall_of(site)["rules"].insert(0, dict(MINE))
        return True

    site._confirm = meanwhile  # type: ignore[method-assign]
    site.pve.requests.clear()
    with pytest.raises(HomelabError, match="postgres-data: it was changed after the plan was made") as caught:
        site.up(ONE)
    assert "Its firewall on node pve" in caught.value.details
    assert calls(site, "POST", "PUT", "DELETE") == []


def test_rules_that_do_not_stay_end_with_an_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.up(ONE)
    listed = firewall_api._rule
    # Simulate that Proxmox changes comments.
    monkeypatch.setattr(firewall_api, "_rule", lambda row: replace(listed(row), comment=listed(row).comment.upper()))
    with pytest.raises(HomelabError, match="Cannot set the firewall rules of 167: they do not stay as set") as caught:
        site.overlaid(ON).up(ONE)
    assert "insert in ACCEPT icmp echo-request (homelab: ping)" in caught.value.details
    assert len(firewall_of(site)["rules"]) == 1
    assert not firewall_of(site)["options"].get("enable")


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/firewall/rules"), ("PUT", "/firewall/options")])
def test_lost_answer_does_not_duplicate_a_rule(site: Site, method: str, suffix: str) -> None:
    site.pve.losing[method, suffix] = 2
    site.overlaid(ON).up(ONE)
    assert site.pve.losing[method, suffix] == 0
    assert matches_inventory(site, ONE)


def test_least_privileges_are_sufficient(site: Site) -> None:
    site.overlaid(ON)
    site.pve.grant_least(site.inventory)
    site.up()
    site.overlaid("").up()
    assert "firewall" not in site.pve.ct(167).config["net0"]


def test_destroy_removes_the_rules(site: Site) -> None:
    site.overlaid(ON).up(ONE)
    site.destroy(ONE)
    site.overlaid("").up(ONE)
    assert (firewall_of(site)["rules"], firewall_of(site)["options"]) == ([], {})


def test_datacenter_switch_is_noted_and_never_changed(site: Site) -> None:
    def switch_checks(overlay: str) -> list[str]:
        checks = doctor(site.overlaid(overlay).inventory, ask=lambda *_: 200).checks
        return [check.said for check in checks if check.name == "firewall"]

    assert switch_checks("") == []
    (off,) = switch_checks(ON)
    assert "pvesh set /cluster/firewall/options --enable 1" in off
    assert "also closes the nodes" in off
    assert look(site).notes == [f"firewall: {off}"]
    site.pve.firewall_config("cluster")["options"]["enable"] = 1
    assert switch_checks(ON) == []
    assert look(site).notes == []
    site.pve.grant_least(site.inventory, without="Sys.Audit", path="/")
    (unseen,) = switch_checks(ON)
    assert "give the token Sys.Audit on /" in unseen
    assert [call for call in site.pve.calls() if "cluster/firewall" in call and not call.startswith("GET")] == []


@pytest.mark.parametrize("acts", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("to", ["on", "off"])
def test_killed_at_every_call(
    tmp_path: Path, pair: tuple[tuple[str, str], str], to: str, acts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill a run at each of its calls in turn: SSH is never dropped, and the next run completes the work."""
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)
    pve, hits = DeadlyNode(), []
    with serving(pve, pair[0]), runner() as processes:
        off, on = (inventory_for(tmp_path, pve, pair[1], SECRET, overlay) for overlay in ("", ON))
        place = Scene(pve, *((off, on) if to == "on" else (on, off)), processes)
        place.succeeds("up", ONE)
        if to == "on":
            firewall_of(place).update(options={"enable": 1}, rules=[dict(MINE)])
        config, conf = deepcopy(pve.ct(167).config), deepcopy(firewall_of(place))
        with watched(place) as seen:
            while not hits or hits[-1]:
                pve.ct(167).config = deepcopy(config)
                firewall_of(place).update(deepcopy(conf))
                ended = place.run("up", ONE, changed=True, deadly=len(hits) + 1, acts=acts)
                hits.append(pve.hit)
                assert ended.status == (-signal.SIGKILL if hits[-1] else 0), (hits[-1], ended)
                if acts and hits[-1].startswith("GET"):
                    continue  # the same as before it
                place.succeeds("up", ONE, changed=True)
                assert place.succeeds("up", ONE, changed=True).startswith("Nothing to do"), hits[-1]
                comments = [rule["comment"] for rule in firewall_of(place)["rules"]]
                assert comments == (rules(on) if to == "on" else []), hits[-1]
                assert firewall_of(place)["options"]["enable"] == int(to == "on")
                assert ("firewall=1" in pve.ct(167).config["net0"]) is (to == "on")
    assert all(seen)
    changed = [hit.removeprefix("/nodes/pve/lxc/167/") for hit in hits if hit and not hit.startswith("GET")]
    assert len(changed) == (7 if to == "on" else 6), changed
    assert pve.kinds() == ["vzcreate", "vzstart"]


def rules(inventory: Inventory) -> list[str]:
    """Return the comments of postgres-data's wanted rules."""
    return [rule.comment for rule in desired_firewall(inventory, inventory.containers[0]).rules]
