"""Plans, as tables: what was found → the actions, nothing, or a refusal."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace
from typing import Any

import pytest

from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.model import ContainerConfig, Inventory, Mount
from homelab.paths import bundled_path
from homelab.plan import ObservedGuest, Plan, plan_destroy, plan_up, select_containers


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load([bundled_path("inventory.yaml")])


def there(inventory: Inventory, vmid: int = 167, **differing: Any) -> ObservedGuest:
    """A container as the inventory wants it, running, but for what is given; fields of Shape go there."""
    container = next((c for c in inventory.containers if c.vmid == vmid), inventory.containers[0])
    fields = {field.name for field in dataclasses.fields(ContainerConfig)}
    shape = replace(container.shape, **{key: value for key, value in differing.items() if key in fields})
    state = {
        "vmid": vmid,
        "name": container.name,
        "node": "pve",
        "status": "running",
        "tags": shape.tags,
        "shape": shape,
    } | {key: value for key, value in differing.items() if key not in fields}
    return ObservedGuest(**state)


def all_there(inventory: Inventory, *others: ObservedGuest) -> dict[int, ObservedGuest]:
    return {c.vmid: there(inventory, c.vmid) for c in inventory.containers} | {f.vmid: f for f in others}


def lines(plan: Plan) -> list[str]:
    return [str(action) for action in plan.actions]


def test_nothing_differs_nothing_to_do(inventory: Inventory) -> None:
    plan = plan_up(inventory, all_there(inventory))
    assert not plan
    assert (str(plan), plan.harms, plan.refusals) == ("", False, ())
    plan.refuse_unsafe()


def test_from_nothing(inventory: Inventory) -> None:
    plan = plan_up(inventory, {})
    assert lines(plan)[0] == "create postgres-data (167): 1 vCPU, 2048 MiB, 16 GiB, 192.168.2.67/24, ubuntu-24.04"
    assert [type(action).__name__ for action in plan.actions] == ["Create"] * 3
    assert list(plan.by_container()) == [c.name for c in inventory.containers]
    assert not plan.harms


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        ({"memory": 512}, ["update postgres-data: memory: 512 → 2048"]),
        ({"cores": 4, "onboot": False}, ["update postgres-data: cores: 4 → 1; onboot: False → True"]),
        ({"disk": 8}, ["resize postgres-data: disk 8 → 16 GiB"]),
        ({"disk": 8, "swap": 0}, ["resize postgres-data: disk 8 → 16 GiB", "update postgres-data: swap: 0 → 512"]),
        ({"status": "stopped"}, ["start postgres-data"]),
        ({"status": "stopped", "memory": 512}, ["update postgres-data: memory: 512 → 2048", "start postgres-data"]),
        (
            {"features": frozenset()},
            [
                "update postgres-data: features: none → nesting",
                "stop postgres-data, so that it starts with the new features",
                "start postgres-data",
            ],
        ),
        (
            {"features": frozenset(), "status": "stopped"},
            ["update postgres-data: features: none → nesting", "start postgres-data"],
        ),
        (
            {"pending": ("nameserver",)},
            ["stop postgres-data, so that it starts with the new nameserver", "start postgres-data"],
        ),
        ({"pending": ("nameserver",), "status": "stopped"}, ["start postgres-data"]),
        ({"lock": "backup"}, []),
        ({"vlan": 5}, ["update postgres-data: vlan: 5 → none"]),
        ({"mtu": 9000, "firewall": True}, ["update postgres-data: mtu: 9000 → none; firewall: True → False"]),
        ({"protection": True}, ["update postgres-data: protection: True → False"]),
        (
            {"start_delay": 9, "stop_timeout": 5},
            ["update postgres-data: start_delay: 9 → none; stop_timeout: 5 → none"],
        ),
        ({"by_hand": frozenset({"net0 rate=5"})}, ["update postgres-data: by_hand: net0 rate=5 → none"]),
        (
            {"tags": frozenset({"homelab", "homelab-home", "x"})},
            ["update postgres-data: tags: homelab,homelab-home,x → homelab,homelab-home"],
        ),
        ({"mounts": (Mount("/more", 5, True),)}, []),  # it holds data
        ({"pool": "of-somebody"}, []),  # the inventory names none
    ],
)
def test_what_differs(inventory: Inventory, differing: dict[str, Any], expected: list[str]) -> None:
    plan = plan_up(inventory, all_there(inventory, there(inventory, **differing)))
    plan.refuse_unsafe()
    assert lines(plan) == expected
    assert plan.harms is any(line.startswith("stop") for line in expected)


@pytest.mark.parametrize(
    ("differing", "brief", "resolution"),
    [
        ({"tags": frozenset()}, "vmid 167 is taken by a container that is not ours", "another vmid"),
        ({"tags": frozenset({"homelab"})}, "not ours", "another vmid"),
        ({"tags": frozenset({"homelab", "homelab-other"}), "shape": None}, "not ours", "another vmid"),
        ({"kind": "qemu"}, "taken by a virtual machine that is not ours", "another vmid"),
        ({"disk": 17}, "its disk cannot shrink", "`disk: 17`"),
        ({"unprivileged": False}, "unprivileged cannot be changed", "homelab destroy --limit postgres-data"),
        ({"lock": "backup", "memory": 512}, "is locked (backup)", "pct unlock 167"),
        ({"lock": "create", "shape": None, "tags": frozenset()}, "167 is half made", "pct unlock 167"),
        (
            {"lock": "create", "shape": None, "tags": frozenset(), "task": "UPID:x", "creator": "a@pve!b"},
            "Somebody else is creating 167",
            "Wait for its end",
        ),
        ({"status": "unknown"}, "postgres-data is unknown", "node is up"),
    ],
)
def test_what_is_refused(inventory: Inventory, differing: dict[str, Any], brief: str, resolution: str) -> None:
    plan = plan_up(inventory, {167: there(inventory, **differing)})
    # A refusal holds back all the rest, so that nothing happens before a person has looked.
    assert lines(plan) == []
    with pytest.raises(HomelabError, match=re.escape(brief)) as caught:
        plan.refuse_unsafe()
    assert resolution in caught.value.resolution


def test_all_refusals_are_named(inventory: Inventory) -> None:
    plan = plan_up(inventory, {167: there(inventory, disk=99), 168: there(inventory, 168, kind="qemu")})
    with pytest.raises(HomelabError, match="2 things cannot be done safely") as caught:
        plan.refuse_unsafe()
    assert "cannot shrink" in caught.value.details
    assert "vmid 168 is taken" in caught.value.details


def test_a_container_under_another_vmid_is_not_made_twice(inventory: Inventory) -> None:
    plan = plan_up(inventory, {267: there(inventory, 267, name="postgres-data")})
    with pytest.raises(HomelabError, match="postgres-data exists already, as 267"):
        plan.refuse_unsafe()


def test_limit(inventory: Inventory) -> None:
    assert [a.container.name for a in plan_up(inventory, {}, ["airflow-orchestration"]).actions] == [
        "airflow-orchestration"
    ]
    # What is wrong with the others does not matter then.
    foreign = {167: there(inventory, kind="qemu")}
    plan_up(inventory, foreign, ["airflow-orchestration"]).refuse_unsafe()
    with pytest.raises(InputError, match="No container is called nope"):
        select_containers(inventory, ["nope"])


@pytest.mark.parametrize(
    ("differing", "expected"),
    [
        ({}, ["destroy postgres-data (167) and its disk"]),
        ({"status": "stopped", "memory": 5}, ["destroy postgres-data (167) and its disk"]),
        ({"tags": frozenset()}, []),
        ({"tags": frozenset({"homelab", "homelab-other"})}, []),
        ({"kind": "qemu"}, []),
    ],
)
def test_destroy(inventory: Inventory, differing: dict[str, Any], expected: list[str]) -> None:
    plan = plan_destroy(inventory, {167: there(inventory, **differing), 500: there(inventory, 500)})
    plan.refuse_unsafe()
    assert lines(plan) == expected
    assert plan.harms is bool(expected)


@pytest.mark.parametrize(
    ("differing", "brief"),
    [
        ({"lock": "create", "shape": None, "tags": frozenset()}, "167 is half made"),
        ({"lock": "backup"}, r"is locked \(backup\)"),
    ],
)
def test_destroy_refuses(inventory: Inventory, differing: dict[str, Any], brief: str) -> None:
    with pytest.raises(HomelabError, match=brief):
        plan_destroy(inventory, {167: there(inventory, **differing)}).refuse_unsafe()


def test_destroy_of_nothing(inventory: Inventory) -> None:
    assert not plan_destroy(inventory, {})
