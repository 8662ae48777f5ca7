"""The privileges that `homelab init` grants are sufficient for every inventory, and each one is needed."""

from __future__ import annotations

from functools import partial

import pytest

from homelab.commands.plan import preview
from homelab.errors import HomelabError
from homelab.proxmox import Client
from tests.integration.fakenode import TOKEN
from tests.integration.test_proxmox_doctor import failures, look
from tests.integration.test_proxmox_doctor import healthy_site as healthy_site
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site
from tests.support import make_session

INVENTORIES = {
    "as shipped": "",
    "a VLAN": "network: {vlan: 20}",
    "pools": "defaults: {pool: lab}",
    "mount points": "containers: {postgres-data: {mounts: {/srv: {size: 9, storage: local}}}}",
    "one storage for all": "defaults: {storage: local}",
    "the node by its name": "proxmox: {node: pve}",
    "a range of vmids": "containers: {postgres-data: {vmid: null}}\ndefaults: {vmid_range: 180-189}",
    "a firewall": "defaults: {firewall: true}",
}


@pytest.mark.parametrize("overlay", INVENTORIES.values(), ids=INVENTORIES.keys())
def test_least_privileges_are_sufficient_for_every_inventory(healthy_site: Site, overlay: str) -> None:
    site = healthy_site.overlaid(overlay)
    site.pve.pools = {"lab": set()}
    site.pve.storages["local"]["content"] = "rootdir,images,vztmpl"
    site.pve.firewall_config("cluster")["options"]["enable"] = 1
    site.pve.grant_least(site.inventory)
    site.inventory.weather.api_key_file.write_text("key")
    assert [(check.name, check.said) for check in failures(site)] == []
    assert preview(make_session(site.inventory, site.known_hosts)).up
    assert sorted(site.up().done) == sorted(NAMES)
    assert not site.up()
    assert [(check.name, check.said) for check in failures(site)] == []
    assert len(site.destroy().done) == 3


def test_least_privileges_are_sufficient_for_every_change(healthy_site: Site) -> None:
    healthy_site.up()
    healthy_site.pve.ct(168).config |= {
        "memory": 512,
        "onboot": 0,
        "tags": "homelab;homelab-home;x",
        "features": "nesting=0",
    }
    healthy_site.overlaid("network: {nameservers: [.1]}\ncontainers: {postgres-data: {disk: 20}}")
    healthy_site.up()
    healthy_site.pve.ct(169).status = "stopped"
    healthy_site.up()
    assert {"shutdown", "start", "config", "resize"} <= {call.rpartition("/")[2] for call in healthy_site.pve.calls()}
    assert len(healthy_site.destroy().done) == 3


@pytest.mark.parametrize(
    "privilege",
    [
        "VM.Allocate",
        "VM.Config.CPU",
        "VM.Config.Disk",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.Options",
        "VM.PowerMgmt",
        "Datastore.AllocateSpace",
        "Datastore.Audit",
        "SDN.Use",
    ],
)
def test_each_privilege_is_needed(site: Site, privilege: str) -> None:
    site.pve.grant_least(site.inventory, without=privilege)
    with pytest.raises(HomelabError):
        site.up("postgres-data")
    assert site.pve.cts == []


def test_invisible_container_is_not_created_twice(site: Site) -> None:
    site.up("postgres-data")
    site.pve.grant_least(site.inventory, without="VM.Audit")
    with pytest.raises(HomelabError, match="Cannot call Proxmox: it refused the call") as caught:
        site.up("postgres-data")
    assert "CT 167 already exists" in caught.value.details
    assert len(site.pve.cts) == 1


def test_privileges_outlive_the_containers(healthy_site: Site) -> None:
    """Proxmox removes the grants on a container's own path with the container."""
    for overlay in ("", "defaults: {pool: lab}"):
        site = healthy_site.overlaid(overlay)
        site.pve.pools = {"lab": set()}
        site.pve.grant_least(site.inventory)
        site.pve.grant(TOKEN, "/vms/500", "VM.Audit")
        for _ in range(2):
            assert len(site.up().done) == 3
            assert len(site.destroy().done) == 3


def test_with_a_pool_other_guests_are_inaccessible(healthy_site: Site) -> None:
    site = healthy_site.overlaid("defaults: {pool: lab}")
    site.pve.pools = {"lab": set()}
    site.pve.grant_least(site.inventory)
    site.up()
    site.pve.add_ct(500, "paperless", node="pve", status="running")
    client = Client(site.inventory.endpoint)
    for call in (
        partial(client.delete, "nodes/pve/lxc/500", force=True),
        partial(client.post, "nodes/pve/lxc/500/status/stop"),
        partial(client.put, "nodes/pve/lxc/500/config", memory=64),
    ):
        with pytest.raises(HomelabError, match="Cannot call Proxmox: the token lacks a privilege"):
            call()
    assert site.pve.ct(500).status == "running"


def test_role_on_the_pool_alone_is_not_sufficient(site: Site) -> None:
    """Proxmox checks tags on the container's own path, which a pool does not cover before the creation."""
    site.overlaid("defaults: {pool: lab}").pve.pools = {"lab": set()}
    site.pve.grant_least(site.inventory, without="VM.Config.Options", path="/vms")
    with pytest.raises(HomelabError) as caught:
        site.up("postgres-data")
    assert "VM.Config.Options on /vms/167" in caught.value.resolution
    assert site.pve.cts == []


@pytest.mark.parametrize(
    ("path", "privilege", "role"),
    [
        ("/pool/lab", "Pool.Audit", "HomelabPool"),
        ("/pool/lab", "VM.PowerMgmt", "HomelabContainers"),
        ("/vms", "VM.Config.Options", "HomelabGuests"),
        ("/", "Sys.Audit", "HomelabNode"),
        ("/sdn/zones/localnetwork/vmbr0/20", "SDN.Use", "HomelabBridge"),
    ],
)
def test_missing_privilege_next_to_a_pool_is_named(healthy_site: Site, path: str, privilege: str, role: str) -> None:
    site = healthy_site.overlaid("defaults: {pool: lab, firewall: true}\nnetwork: {vlan: 20}")
    site.pve.pools = {"lab": set()}
    site.pve.grant_least(site.inventory, without=privilege, path=path)
    check = next(check for check in look(site).checks if check.name == f"role {role}")
    assert check.said == f"missing, for the token or its user: {privilege} on {path}"
    assert f"pveum acl modify {path} --roles {role} " in check.todo[1]
