"""Plans as tables: observed state → actions, an empty plan, or a refusal."""

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
from homelab.plan import ObservedGuest, Plan, plan_destroy, plan_orphans, plan_up, select_containers


@pytest.fixture(scope="module")
def inventory() -> Inventory:
    return load([bundled_path("inventory.yaml")])


def observed(inventory: Inventory, vmid: int = 167, **differing: Any) -> ObservedGuest:
    """Return a running container that matches the inventory except for `differing`.

    `differing` has fields of ObservedGuest or ContainerConfig; those of `live` differ from the configuration.
    """
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
        "live": replace(shape, **differing.pop("live", {})),
    } | {key: value for key, value in differing.items() if key not in fields}
    return ObservedGuest(**state)


def all_observed(inventory: Inventory, *others: ObservedGuest) -> dict[int, ObservedGuest]:
    return {c.vmid: observed(inventory, c.vmid) for c in inventory.containers} | {f.vmid: f for f in others}


def lines(plan: Plan) -> list[str]:
    return [str(action) for action in plan.actions]


def test_plan_is_empty_without_differences(inventory: Inventory) -> None:
    plan = plan_up(inventory, all_observed(inventory))
    assert not plan
    assert (str(plan), plan.harms, plan.refusals) == ("", False, ())
    plan.refuse_unsafe()


def test_missing_containers_are_created(inventory: Inventory) -> None:
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
                "stop postgres-data, to restart it with the new features",
                "start postgres-data",
            ],
        ),
        (
            {"features": frozenset(), "status": "stopped"},
            ["update postgres-data: features: none → nesting", "start postgres-data"],
        ),
        (
            {"live": {"searchdomain": "old.invalid"}},
            ["stop postgres-data, to restart it with the new searchdomain", "start postgres-data"],
        ),
        ({"live": {"searchdomain": "old.invalid"}, "status": "stopped"}, ["start postgres-data"]),
        (
            {"searchdomain": "new.invalid", "live": {"searchdomain": None}},
            ["update postgres-data: searchdomain: new.invalid → none"],
        ),
        ({"pending": ("timezone",)}, []),
        ({"lock": "backup"}, []),
        ({"vlan": 5}, ["update postgres-data: vlan: 5 → none"]),
        (
            {"mtu": 9000, "firewall": True},
            [
                "stop postgres-data, to restart it with the new mtu",
                "update postgres-data: mtu: 9000 → none; firewall: True → False",
                "start postgres-data",
            ],
        ),
        (
            {"hostname": "other", "onboot": False},
            [
                "stop postgres-data, to restart it with the new hostname",
                "update postgres-data: hostname: other → postgres-data; onboot: False → True",
                "start postgres-data",
            ],
        ),
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
        ({"pool": "of-another-user"}, []),  # the inventory names none
    ],
)
def test_actions_per_difference(inventory: Inventory, differing: dict[str, Any], expected: list[str]) -> None:
    plan = plan_up(inventory, all_observed(inventory, observed(inventory, **differing)))
    plan.refuse_unsafe()
    assert lines(plan) == expected
    assert plan.harms is any(line.startswith("stop") for line in expected)


@pytest.mark.parametrize(
    ("differing", "brief", "resolution"),
    [
        (
            {"tags": frozenset()},
            "Cannot use vmid 167 for postgres-data: it belongs to a container that is not ours",
            "another vmid",
        ),
        ({"tags": frozenset({"homelab"})}, "not ours", "another vmid"),
        ({"tags": frozenset({"homelab", "homelab-other"}), "shape": None}, "not ours", "another vmid"),
        ({"kind": "qemu"}, "it belongs to a virtual machine that is not ours", "another vmid"),
        ({"disk": 17}, "Cannot shrink the disk of postgres-data", "`disk: 17`"),
        (
            {"unprivileged": False},
            "Cannot change unprivileged of postgres-data",
            "homelab destroy --limit postgres-data",
        ),
        ({"lock": "backup", "memory": 512}, "it is locked (backup)", "pct unlock 167"),
        (
            {"lock": "create", "shape": None, "tags": frozenset()},
            "Cannot use 167: its creation was interrupted",
            "pct unlock 167",
        ),
        (
            {"lock": "create", "shape": None, "tags": frozenset(), "task": "UPID:x", "creator": "a@pve!b"},
            "Cannot create 167: another task is creating it",
            "Wait for its end",
        ),
        ({"status": "unknown"}, "Cannot change postgres-data: it is unknown", "node is up"),
    ],
)
def test_refusals_block_all_actions(
    inventory: Inventory, differing: dict[str, Any], brief: str, resolution: str
) -> None:
    plan = plan_up(inventory, {167: observed(inventory, **differing)})
    # One refusal blocks the other actions too, so that the user decides first; the plan still shows them.
    assert [each.container.name for each in plan.actions] == ["analytics-platform", "airflow-orchestration"]
    with pytest.raises(HomelabError, match=re.escape(brief)) as caught:
        plan.refuse_unsafe()
    assert resolution in caught.value.resolution


def test_error_lists_all_refusals(inventory: Inventory) -> None:
    plan = plan_up(inventory, {167: observed(inventory, disk=99), 168: observed(inventory, 168, kind="qemu")})
    with pytest.raises(HomelabError, match="Cannot apply the plan: 2 changes are unsafe") as caught:
        plan.refuse_unsafe()
    assert "Cannot shrink the disk of postgres-data" in caught.value.details
    assert "Cannot use vmid 168" in caught.value.details


def test_container_with_another_vmid_is_not_created_twice(inventory: Inventory) -> None:
    plan = plan_up(inventory, {267: observed(inventory, 267, name="postgres-data")})
    with pytest.raises(HomelabError, match="Cannot create postgres-data: it already exists as 267"):
        plan.refuse_unsafe()


def test_limit_restricts_actions_and_refusals(inventory: Inventory) -> None:
    assert [a.container.name for a in plan_up(inventory, {}, ["airflow-orchestration"]).actions] == [
        "airflow-orchestration"
    ]
    # Problems of the other containers are ignored.
    foreign = {167: observed(inventory, kind="qemu")}
    plan_up(inventory, foreign, ["airflow-orchestration"]).refuse_unsafe()
    with pytest.raises(InputError, match="Cannot find container nope: it is not in the inventory"):
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
def test_destroy_removes_only_our_containers(
    inventory: Inventory, differing: dict[str, Any], expected: list[str]
) -> None:
    plan = plan_destroy(inventory, {167: observed(inventory, **differing), 500: observed(inventory, 500)})
    plan.refuse_unsafe()
    assert lines(plan) == expected
    assert plan.harms is bool(expected)


@pytest.mark.parametrize(
    ("differing", "brief"),
    [
        ({"lock": "create", "shape": None, "tags": frozenset()}, "Cannot use 167: its creation was interrupted"),
        ({"lock": "backup"}, r"it is locked \(backup\)"),
    ],
)
def test_destroy_refuses_locked_containers(inventory: Inventory, differing: dict[str, Any], brief: str) -> None:
    with pytest.raises(HomelabError, match=brief):
        plan_destroy(inventory, {167: observed(inventory, **differing)}).refuse_unsafe()


def test_destroy_without_containers_is_empty(inventory: Inventory) -> None:
    assert not plan_destroy(inventory, {})


def test_devices_and_bind_mounts_come_with_the_line_for_root(inventory: Inventory) -> None:
    first, *others = inventory.containers
    wanted = replace(first, devices=("/dev/ttyUSB0", "/dev/kvm"), bind_mounts={"/srv/media": "/tank/media"})
    asked = replace(inventory, containers=(wanted, *others))
    config = {"dev0": "/dev/kvm,mode=0660", "dev1": "/dev/fuse", "mp0": "/tank/other,mp=/srv/other"}
    by_hand = ("dev0", "dev1", "mp0")
    plan = plan_up(asked, {167: replace(observed(inventory, config=config), by_hand=by_hand)}, ["postgres-data"])
    assert [note.text for note in plan.notes] == [
        "only root@pam may add its devices and bind mounts: run `pct set 167 --dev2 /dev/ttyUSB0 --mp1 "
        "/tank/media,mp=/srv/media` on the node, then restart it",
        "it also has dev1, mp0, missing in the inventory: left unchanged",
    ]
    done = {"dev0": "path=/dev/kvm", "dev2": "/dev/ttyUSB0", "mp1": "/tank/media,mp=/srv/media,ro=1"}
    plan = plan_up(asked, {167: replace(observed(inventory, config=done), by_hand=tuple(done))}, ["postgres-data"])
    assert (lines(plan), plan.notes) == ([], ())
    (created,) = plan_up(asked, {}, ["postgres-data"]).notes
    assert "`pct set 167 --dev0 /dev/ttyUSB0 --dev1 /dev/kvm --mp0 /tank/media,mp=/srv/media`" in created.text


@pytest.mark.parametrize(
    ("since", "expected"),
    [({}, ["destroy postgres-data (300) and its disk"]), ({"sealed": True}, []), ({"tags": frozenset({"mine"})}, [])],
)
def test_orphan_that_has_changed_since_the_list_was_made_is_left_alone(
    inventory: Inventory, since: dict[str, Any], expected: list[str]
) -> None:
    listed = replace(observed(inventory, 300), shape=None)
    plan = plan_orphans(inventory, all_observed(inventory, listed), (), lambda _: observed(inventory, 300, **since))
    assert lines(plan) == expected
