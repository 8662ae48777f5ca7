"""Roles: one per kind of path, only the privileges that the inventory needs, and the resolution of a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.proxmox.privileges import adoption, grant, grants, privileges_on, pveum

TOKEN = "homelab@pve!cli"


def inventory(folder: Path, overlay: str = "") -> Inventory:
    path, over = folder / "inventory.yaml", folder / "overlay.yaml"
    path.write_text(bundled_path("inventory.yaml").read_text())
    over.write_text(overlay)
    return load([path, over])


def test_each_kind_of_path_has_its_own_role(tmp_path: Path) -> None:
    assert {path: [role.name for role in roles] for path, roles in grants(inventory(tmp_path)).items()} == {
        "/vms": ["HomelabContainers"],
        "/nodes": ["HomelabNode"],
        "/storage/local-lvm": ["HomelabStorage"],
        "/storage/local": ["HomelabTemplates"],
        "/sdn/zones/localnetwork/vmbr0": ["HomelabBridge"],
    }


@pytest.mark.parametrize(
    ("overlay", "path", "roles"),
    [
        ("network: {vlan: 20}", "/sdn/zones/localnetwork/vmbr0/20", ["HomelabBridge"]),
        (
            "containers: {postgres-data: {networks: {net1: {bridge: vmbr1, vlan: 30}}}}",
            "/sdn/zones/localnetwork/vmbr1/30",
            ["HomelabBridge"],
        ),
        ("proxmox: {node: pve3}", "/nodes/pve3", ["HomelabNode"]),
        ("defaults: {pool: lab}", "/pool/lab", ["HomelabContainers", "HomelabPool"]),
        ("defaults: {pool: lab}", "/vms", ["HomelabGuests"]),
        ("defaults: {storage: local}", "/storage/local", ["HomelabStorage", "HomelabTemplates"]),
        ("containers: {postgres-data: {storage: fast}}", "/storage/fast", ["HomelabStorage"]),
        ("containers: {postgres-data: {mounts: {/srv: {size: 9, storage: big}}}}", "/storage/big", ["HomelabStorage"]),
        ("containers: {postgres-data: {firewall: true}}", "/", ["HomelabNode"]),
    ],
)
def test_roles_cover_only_the_paths_of_the_inventory(tmp_path: Path, overlay: str, path: str, roles: list[str]) -> None:
    assert [role.name for role in grants(inventory(tmp_path, overlay))[path]] == roles


def test_commands_are_idempotent_and_for_the_token_and_its_user(tmp_path: Path) -> None:
    lines = pveum(inventory(tmp_path))
    assert lines[1] == (
        "pveum role add HomelabContainers 2>/dev/null; pveum role modify HomelabContainers --append 1 "
        "--privs 'VM.Allocate VM.Audit VM.Config.CPU VM.Config.Disk VM.Config.Memory "
        "VM.Config.Network VM.Config.Options VM.PowerMgmt'"
    )
    assert f"pveum acl modify /vms --roles HomelabContainers --users homelab@pve --tokens '{TOKEN}'" in lines
    assert f"pveum acl modify /nodes --roles HomelabNode --users homelab@pve --tokens '{TOKEN}'" in lines
    assert next(line for line in lines if "VM.Snapshot" in line).endswith("# snapshot")
    wanted = lines[: lines.index("# Only if you use them:")]
    assert not [line for line in wanted if "Snapshot" in line or "Backup" in line or "Clone" in line]


@pytest.mark.parametrize(
    ("permissions", "path", "expected"),
    [
        ({"/vms/167": {"VM.Audit": 1}}, "/vms/167", {"VM.Audit"}),
        ({"/vms": {"VM.Audit": 1}}, "/vms/167", {"VM.Audit"}),
        ({"/vms": {"VM.Audit": 0}}, "/vms/167", set()),
        ({"/vms": {"VM.Audit": 0}}, "/vms", {"VM.Audit"}),
        ({"/vms": {"VM.Audit": 1}, "/vms/167": {"VM.PowerMgmt": 1}}, "/vms/167", {"VM.PowerMgmt"}),
        ({"/": {"Sys.Audit": 1}}, "/nodes/pve", {"Sys.Audit"}),
        ({"/": {"Sys.Audit": 0}}, "/", {"Sys.Audit"}),
        ({}, "/vms/167", set()),
    ],
)
def test_privileges_on_a_path(permissions: dict[str, dict[str, int]], path: str, expected: set[str]) -> None:
    assert privileges_on(permissions, path) == expected


@pytest.mark.parametrize(
    ("message", "parts"),
    [
        (
            "Permission check failed (/vms/167, VM.Snapshot)",
            [
                "VM.Snapshot on /vms/167",
                "pveum role modify HomelabContainers --append 1 --privs VM.Snapshot",
                "homelab doctor",
            ],
        ),
        (
            "Permission check failed (/storage/local, Datastore.AllocateTemplate)",
            ["role modify HomelabTemplates", "acl modify /storage/local --roles HomelabTemplates"],
        ),
        ("Permission check failed (/storage/b, Datastore.Audit|Datastore.AllocateSpace)", ["--privs Datastore.Audit"]),
        ("Permission check failed (/, Sys.Audit)", ["acl modify / --roles HomelabNode", "--propagate 0"]),
        ("Permission check failed (/, Sys.Modify for modifying tag 'homelab')", ["User Tag Access", "`homelab`"]),
        ("Permission check failed (pool 'lab' does not exist)", ["pveum pool add lab"]),
        ("Permission check failed", ["homelab doctor"]),
        (
            "Permission check failed (changing feature flags (except nesting) is only allowed for root@pam)",
            ["reserves that for root@pam", "pct set"],
        ),
    ],
)
def test_resolution_of_a_permission_error(message: str, parts: list[str]) -> None:
    resolution = grant(message, TOKEN)
    assert [part for part in parts if part not in resolution] == []
    assert ("Sys.Modify" in resolution) is False


def test_with_a_pool_the_privileges_are_limited_to_the_pool(tmp_path: Path) -> None:
    granted = grants(inventory(tmp_path, "defaults: {pool: lab}"))
    assert [role.privileges for role in granted["/vms"]] == [("VM.Audit", "VM.Config.Options")]
    lines = pveum(inventory(tmp_path, "defaults: {pool: lab}"))
    assert "pveum pool add lab" in lines
    assert (
        f"pveum acl modify /pool/lab --roles HomelabContainers,HomelabPool --users homelab@pve --tokens '{TOKEN}'"
    ) in lines


def test_command_that_grants_the_roles_on_an_imported_container(tmp_path: Path) -> None:
    assert adoption(inventory(tmp_path), 105).startswith("pveum acl modify /vms --roles HomelabContainers")
    assert adoption(inventory(tmp_path, "defaults: {pool: lab}"), 105) == (
        "pveum pool modify lab --vms 105 --allow-move 1"
    )
