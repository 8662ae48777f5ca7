"""The firewall's rules: those of the shipped inventory, and the changes that lead to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.model import Inventory
from homelab.model.firewall import Firewall, Insert, Move, Remove, Rule, changes, desired_firewall, goal, next_change
from homelab.paths import bundled_path
from homelab.runtime.lockout import lockout_notes, own_address

SSH = Rule(proto="tcp", port="22", source="192.168.2.0/24", comment="homelab: SSH for the operator")
DB = Rule(proto="tcp", port="5432", source="192.168.2.68", comment="homelab: PostgreSQL for analytics-platform")
WEB = Rule(proto="tcp", port="8080", source="192.168.2.0/24", comment="homelab: web UI for the LAN")
MOVED = replace(WEB, port="8081")
PING = Rule(proto="icmp", icmp="echo-request", comment="homelab: ping")
MINE = Rule(proto="tcp", port="80", comment="my own")
DENY = Rule(action="DROP", source="192.168.2.99", more=("log=info",))


def applied(rules: Sequence[Rule], change: Insert | Remove | Move) -> tuple[Rule, ...]:
    """Apply a change to rules as Proxmox does."""
    changed = list(rules)
    match change:
        case Insert(rule):
            changed.insert(0, rule)
        case Remove(position):
            del changed[position]
        case Move(position, to):
            moved: list[Rule] = []
            for index, rule in enumerate(changed):
                if index == position:
                    continue
                if index == to:
                    moved.append(changed[position])
                moved.append(rule)
            changed = moved if to < len(changed) else [*moved, changed[position]]
    return tuple(changed)


def steps(found: Sequence[Rule], want: Sequence[Rule]) -> list[Insert | Remove | Move]:
    """Return all changes that turn `found` into `want`."""
    made = []
    while change := next_change(found, want):
        made.append(change)
        found = applied(found, change)
        assert len(made) < 100, "no convergence"
    assert tuple(found) == tuple(want)
    return made


@pytest.mark.parametrize(
    ("found", "want", "expected"),
    [
        ((), (), []),
        ((SSH, DB), (SSH, DB), []),
        ((), (SSH, DB, PING), [Insert(PING), Insert(DB), Insert(SSH)]),
        ((SSH, MINE), (SSH,), [Remove(1)]),
        ((MINE, DENY, SSH), (SSH,), [Remove(1), Remove(0)]),
        ((DB, SSH), (SSH, DB), [Move(1, 0)]),
        ((SSH, SSH), (SSH,), [Remove(0)]),
        ((replace(SSH, enabled=False), DB), (SSH, DB), [Insert(SSH), Remove(1)]),
        # A replaced rule changes only these two rules and keeps its place.
        ((SSH, WEB, PING), (SSH, MOVED, PING), [Insert(MOVED), Remove(2), Move(1, 0)]),
        ((SSH, DB), (), [Remove(0), Remove(0)]),
    ],
)
def test_next_change_converges_in_order(found: Sequence[Rule], want: Sequence[Rule], expected: list[object]) -> None:
    assert steps(found, want) == expected


def lets_in(rules: Sequence[Rule], port: str, source: str) -> bool:
    """Check that the first matching rule accepts; without a match, the packet is dropped."""
    for rule in rules:
        if rule.enabled and rule.port in ("", port) and rule.source in ("", source) and not rule.icmp:
            return rule.action == "ACCEPT"
    return False


def test_traffic_accepted_before_and_after_is_never_dropped_in_between() -> None:
    dice = random.Random(3)  # noqa: S311 - the same cases at every run
    packets = [(port, source) for port in "123" for source in "AB"]
    pool = [
        Rule(action=action, port=port, source=source, enabled=enabled, comment=comment)
        for action in ("ACCEPT", "DROP")
        for port in ("1", "2", "")
        for source in ("A", "B", "")
        for enabled in (True, False)
        for comment in ("x", "y")
    ]
    opens = [rule for rule in pool if rule.action == "ACCEPT" and rule.enabled]
    kept = 0
    for _ in range(500):
        found: tuple[Rule, ...] = tuple(dice.choices(pool, k=dice.randrange(6)))
        shared = [rule for rule in found if rule in opens and dice.random() < 0.7]
        want = tuple(dict.fromkeys([*dice.sample(opens, k=dice.randrange(3)), *shared]))
        both = [packet for packet in packets if lets_in(found, *packet) and lets_in(want, *packet)]
        kept += len(both)
        while change := next_change(found, want):
            found = applied(found, change)
            assert all(lets_in(found, *packet) for packet in both), (found, change)
    assert kept > 300, "too few cases to prove anything"


@pytest.mark.parametrize(
    ("want", "found", "expected"),
    [
        (Firewall(), Firewall(), []),
        (Firewall(), Firewall(rules=(MINE,)), []),
        (Firewall(), Firewall(on=True, rules=(SSH, MINE)), [f"- {SSH}", "on → off"]),
        (Firewall(), Firewall(rules=(SSH,)), [f"- {SSH}"]),
        (Firewall(on=True, rules=(SSH,)), Firewall(), [f"+ {SSH}", "off → on"]),
        (Firewall(on=True, rules=(SSH,)), Firewall(on=True, rules=(SSH,)), []),
        (Firewall(on=True, rules=(SSH,)), Firewall(on=True, rules=(DENY, SSH)), [f"- {DENY}"]),
        (Firewall(on=True, rules=(SSH, DB)), Firewall(on=True, rules=(DB, SSH)), ["reorder its rules"]),
        (
            Firewall(on=True),
            Firewall(on=True, policy_in="ACCEPT", policy_out="DROP"),
            ["policy in: ACCEPT → DROP", "policy out: DROP → ACCEPT"],
        ),
    ],
)
def test_changes_one_line_per_difference(want: Firewall, found: Firewall, expected: list[str]) -> None:
    target = goal(want, found)
    assert list(changes(target, found)) == expected
    assert (target == found) is (not expected)


def test_rule_as_text() -> None:
    assert str(DB) == "in ACCEPT tcp 5432 from 192.168.2.68 (homelab: PostgreSQL for analytics-platform)"
    assert str(PING) == "in ACCEPT icmp echo-request (homelab: ping)"
    assert str(replace(DENY, enabled=False)) == "in DROP from 192.168.2.99 log=info [disabled]"


def inventory(folder: Path, overlay: str = "") -> Inventory:
    """Load the shipped inventory with the firewall on."""
    over = folder / "overlay.yaml"
    over.write_text(overlay)
    on = folder / "on.yaml"
    on.write_text("defaults: {firewall: true}")
    return load([bundled_path("inventory.yaml"), on, over])


def rules(inventory: Inventory) -> dict[str, list[str]]:
    """Return the wanted rules of each container as text."""
    found = {container.name: desired_firewall(inventory, container) for container in inventory.containers}
    assert {(each.on, each.policy_in, each.policy_out) for each in found.values()} == {(True, "DROP", "ACCEPT")}
    return {name: [str(rule).removeprefix("in ACCEPT ") for rule in each.rules] for name, each in found.items()}


SHIPPED = {
    "postgres-data": [
        "tcp 22 from 192.168.2.0/24 (homelab: SSH for the operator)",
        "tcp 5432 from 192.168.2.68 (homelab: PostgreSQL for analytics-platform)",
        "tcp 5432 from 192.168.2.69 (homelab: PostgreSQL for airflow-orchestration)",
        "icmp echo-request (homelab: ping)",
    ],
    "analytics-platform": [
        "tcp 22 from 192.168.2.0/24 (homelab: SSH for the operator)",
        "tcp 22 from 192.168.2.69 (homelab: SSH for airflow-orchestration)",
        "icmp echo-request (homelab: ping)",
    ],
    "airflow-orchestration": [
        "tcp 22 from 192.168.2.0/24 (homelab: SSH for the operator)",
        "tcp 8080 from 192.168.2.0/24 (homelab: Airflow's web UI for the LAN)",
        "icmp echo-request (homelab: ping)",
    ],
}
SSH_RULE = SHIPPED["postgres-data"][0]


@pytest.mark.parametrize(
    ("overlay", "changed"),
    [
        ("", {}),
        (
            "network: {ssh_allowed_from: [10.8.0.0/24, .5]}",
            {
                name: [
                    "tcp 22 from 10.8.0.0/24 (homelab: SSH for the operator)",
                    "tcp 22 from 192.168.2.5 (homelab: SSH for the operator)",
                    *lines[1:],
                ]
                for name, lines in SHIPPED.items()
            },
        ),
        (
            "containers: {airflow-orchestration: {ip: .79, services: {airflow: {port: 9090}}}}",
            {
                "postgres-data": [line.replace(".69", ".79") for line in SHIPPED["postgres-data"]],
                "analytics-platform": [line.replace(".69", ".79") for line in SHIPPED["analytics-platform"]],
                "airflow-orchestration": [line.replace("8080", "9090") for line in SHIPPED["airflow-orchestration"]],
            },
        ),
        # The rules follow a service to another container, and a container needs no rule to reach itself.
        (
            "containers: {postgres-data: {services: {postgres: {}, analytics: {}}}, "
            "analytics-platform: {services: null}}",
            {
                "postgres-data": [
                    SSH_RULE,
                    SHIPPED["postgres-data"][2],
                    SHIPPED["analytics-platform"][1],
                    "icmp echo-request (homelab: ping)",
                ],
                "analytics-platform": [SSH_RULE, "icmp echo-request (homelab: ping)"],
            },
        ),
    ],
)
def test_wanted_rules_per_container(tmp_path: Path, overlay: str, changed: dict[str, list[str]]) -> None:
    assert rules(inventory(tmp_path, overlay)) == SHIPPED | changed


def test_firewall_is_off_by_default_and_set_per_container(tmp_path: Path) -> None:
    shipped_one = load([bundled_path("inventory.yaml")])
    assert {desired_firewall(shipped_one, container) for container in shipped_one.containers} == {Firewall()}
    but_one = inventory(tmp_path, "containers: {postgres-data: {firewall: false}}")
    assert [desired_firewall(but_one, container).on for container in but_one.containers] == [False, True, True]


def test_postgres_is_open_to_exactly_the_clients_of_pg_hba(tmp_path: Path) -> None:
    found = inventory(tmp_path)
    database = found.container_with("postgres")
    sources = {rule.source for rule in desired_firewall(found, database).rules if rule.port == "5432"}
    assert sources == {str(container.address) for container, _ in found.database_grants()}


@pytest.mark.parametrize(
    ("ssh_allowed_from", "own", "names"),
    [
        ("null", None, []),
        ("null", "192.168.2.9", []),
        ("null", "10.8.0.5", ["postgres-data", "analytics-platform", "airflow-orchestration"]),
        ("[10.8.0.5]", "10.8.0.5", []),
        # The rule for Airflow opens SSH only on the analytics container.
        ("[10.8.0.0/24]", "192.168.2.69", ["postgres-data", "airflow-orchestration"]),
    ],
)
def test_operator_outside_the_allowed_networks_gets_a_note(
    tmp_path: Path, ssh_allowed_from: str, own: str | None, names: list[str]
) -> None:
    found = inventory(tmp_path, f"network: {{ssh_allowed_from: {ssh_allowed_from}}}")
    notes = list(lockout_notes(found, found.containers, lambda _: IPv4Address(own) if own else None))
    assert [note.container for note in notes] == names
    assert all(f"comes from {own}, which `ssh_allowed_from` under `network:`" in note.text for note in notes)


def test_own_address_comes_from_the_routing_table() -> None:
    assert own_address(IPv4Address("127.0.0.1")) == IPv4Address("127.0.0.1")
    assert own_address(IPv4Address("192.168.2.67")) is None, "the tests' guard"
