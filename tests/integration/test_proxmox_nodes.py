"""More than three containers on one node: clusters, migrated containers, vmids out of a range, many at once."""

from __future__ import annotations

import json

import pytest

from homelab.errors import HomelabError
from homelab.runtime.container_changes import container_states
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import context as context
from tests.integration.test_proxmox_up import pair as pair

RANGE = (
    "defaults: {vmids: 200-203}\ncontainers: {postgres-data: {vmid: null}, analytics-platform: {vmid: null}, "
    "airflow-orchestration: {vmid: null}}"
)


def cluster(context: Site) -> Site:
    context.pve.add_node("pve2")
    for storage in context.pve.storages.values():
        storage.pop("nodes", None)
    return context


def many(count: int) -> str:
    return "containers:\n" + "".join(
        f"  node-{number}: {{vmid: {300 + number}, ip: .{100 + number}, cores: 1, memory: 128}}\n"
        for number in range(count)
    )


def vmids(context: Site) -> dict[str, int]:
    return {ct.name: ct.vmid for ct in context.pve.cts}


def test_a_cluster_needs_to_be_told_where(context: Site) -> None:
    with pytest.raises(HomelabError) as caught:
        cluster(context).up()
    assert (caught.value.brief, "pve, pve2" in caught.value.details) == (
        "Which node should the containers be made on?",
        True,
    )
    assert context.pve.cts == []


def test_each_container_on_its_own_node(context: Site) -> None:
    cluster(context).overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2}}").up()
    assert {ct.vmid: ct.node for ct in context.pve.cts} == {167: "pve2", 168: "pve", 169: "pve"}
    assert not context.up()
    context.overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2, memory: 1024}}").up()
    assert context.pve.ct(167).config["memory"] == 1024
    context.destroy("postgres-data")
    assert sorted(ct.vmid for ct in context.pve.cts) == [168, 169]


def test_a_migrated_container_is_found_there_and_left_there(context: Site) -> None:
    cluster(context).overlaid("proxmox: {node: pve}").up()
    context.pve.ct(168).node = "pve2"
    context.pve.ct(168).config["memory"] = 512
    assert context.up().done == {"analytics-platform": ["update analytics-platform: memory: 512 → 4096"]}
    assert "PUT /nodes/pve2/lxc/168/config" in context.pve.calls("PUT")
    assert str(context.noted()) == "analytics-platform: it is on node pve2, the inventory says pve: it is left there"
    assert [state.node for state in container_states(context.inventory)] == ["pve", "pve2", "pve"]
    context.destroy()
    assert context.pve.cts == []


def test_a_node_that_is_down_stops_what_concerns_it_and_nothing_else(context: Site) -> None:
    cluster(context).overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2}}").up()
    context.pve.set_node_offline("pve2")
    with pytest.raises(HomelabError) as caught:
        context.up()
    assert "postgres-data is unknown" in caught.value.brief
    assert not context.up("analytics-platform", "airflow-orchestration")


def test_vmids_out_of_a_range_are_kept(context: Site) -> None:
    context.pve.add_ct(200, "of-somebody-else", node="pve")
    context.overlaid(RANGE).up()
    assert vmids(context) == {
        "of-somebody-else": 200,
        "postgres-data": 201,
        "analytics-platform": 202,
        "airflow-orchestration": 203,
    }
    assert not context.up()
    context.destroy("analytics-platform")
    context.pve.ct(200).status = "stopped"
    context.pve.cts.remove(context.pve.ct(200))
    assert not context.up("postgres-data")
    (context.inventory.state_dir / "vmids.json").unlink()  # another machine: known by name and tags
    assert not context.up("postgres-data", "airflow-orchestration")
    assert [state.vmid for state in container_states(context.inventory)] == [201, 200, 203]  # promised, not made
    context.up()
    assert vmids(context)["analytics-platform"] == 200
    context.destroy()
    assert (context.pve.cts, json.loads((context.inventory.state_dir / "vmids.json").read_text())) == ([], {})


def test_a_vmid_that_the_token_cannot_see_is_not_taken(context: Site) -> None:
    context.pve.fail("GET", "/cluster/nextid", status=400, message="VM 200 already exists", times=1)
    context.overlaid(RANGE).up("postgres-data")
    assert vmids(context)["postgres-data"] == 201


def test_a_range_that_is_used_up(context: Site) -> None:
    for vmid in (200, 201):
        context.pve.add_ct(vmid, f"x{vmid}", node="pve")
    with pytest.raises(HomelabError) as caught:
        context.overlaid(RANGE).up()
    assert (caught.value.brief, "200-203" in caught.value.details) == ("No vmid is left for a new container", True)
    assert len(context.pve.cts) == 2


def test_a_killed_create_is_looked_for_where_it_was_begun(context: Site) -> None:
    context.overlaid(RANGE)
    context.pve.fail("POST", "/nodes/pve/lxc", status=599, message="Too many redirections", times=None)
    with pytest.raises(HomelabError):
        context.up("postgres-data")
    promised = json.loads((context.inventory.state_dir / "vmids.json").read_text())
    assert promised["postgres-data"] == 200
    context.pve.failures.clear()
    context.up("postgres-data")
    assert vmids(context) == {"postgres-data": 200}


def test_one_that_was_renamed_by_hand_is_not_made_again(context: Site) -> None:
    context.overlaid(RANGE).up()
    (context.inventory.state_dir / "vmids.json").unlink()
    context.pve.ct(200).config["hostname"] = "renamed"
    with pytest.raises(HomelabError) as caught:
        context.up()
    assert caught.value.brief == "Is 200 one of postgres-data?"
    assert "`vmid: 200`" in caught.value.resolution
    assert context.pve.kinds().count("vzcreate") == len(NAMES)


def test_two_of_one_name(context: Site) -> None:
    context.overlaid(RANGE).up()
    config = dict(context.pve.ct(200).config)
    context.pve.add_ct(290, "postgres-data", node="pve", config=config)
    with pytest.raises(HomelabError) as caught:
        context.up()
    assert caught.value.details == "200 and 290 carry its name and this lab's tags."


def test_twenty_containers_side_by_side(context: Site) -> None:
    context.overlaid(many(20)).up()
    assert len(context.pve.cts) == 23
    context.pve.ct(310).config["memory"] = 512
    assert context.up().done == {"node-10": ["update node-10: memory: 512 → 128"]}
    assert context.up("node-3", "node-4").done == {}
    context.destroy("node-3")
    assert len(context.pve.cts) == 22
