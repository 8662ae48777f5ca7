"""Beyond three containers on one node: clusters, migrated containers, vmids from a range, many containers."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from homelab.errors import HomelabError
from homelab.runtime.container_states import container_states
from tests.integration.test_proxmox_up import NAMES, Site
from tests.integration.test_proxmox_up import pair as pair
from tests.integration.test_proxmox_up import site as site

RANGE = (
    "defaults: {vmid_range: 200-203}\ncontainers: {postgres-data: {vmid: null}, analytics-platform: {vmid: null}, "
    "airflow-orchestration: {vmid: null}}"
)


def cluster(site: Site) -> Site:
    site.pve.add_node("pve2")
    for storage in site.pve.storages.values():
        storage.pop("nodes", None)
    return site


def many(count: int) -> str:
    return "containers:\n" + "".join(
        f"  node-{number}: {{vmid: {300 + number}, ip: .{100 + number}, cores: 1, memory: 128}}\n"
        for number in range(count)
    )


def vmids(site: Site) -> dict[str, int]:
    return {ct.name: ct.vmid for ct in site.pve.cts}


def test_cluster_needs_a_node_in_the_inventory(site: Site) -> None:
    with pytest.raises(HomelabError) as caught:
        cluster(site).up()
    assert (caught.value.brief, "pve, pve2" in caught.value.details) == (
        "Cannot choose a node for the containers: the inventory names none",
        True,
    )
    assert site.pve.cts == []


def test_each_container_on_its_own_node(site: Site) -> None:
    cluster(site).overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2}}").up()
    assert {ct.vmid: ct.node for ct in site.pve.cts} == {167: "pve2", 168: "pve", 169: "pve"}
    assert not site.up()
    site.overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2, memory: 1024}}").up()
    assert site.pve.ct(167).config["memory"] == 1024
    site.destroy("postgres-data")
    assert sorted(ct.vmid for ct in site.pve.cts) == [168, 169]


def test_migrated_container_is_managed_on_its_node(site: Site) -> None:
    cluster(site).overlaid("proxmox: {node: pve}").up()
    site.pve.ct(168).node = "pve2"
    site.pve.ct(168).config["memory"] = 512
    assert site.up().done == {"analytics-platform": ["update analytics-platform: memory: 512 → 4096"]}
    assert "PUT /nodes/pve2/lxc/168/config" in site.pve.calls("PUT")
    assert str(site.noted()) == "analytics-platform: it is on node pve2, the inventory has pve: it is not moved"
    assert [state.node for state in container_states(site.inventory)[0]] == ["pve", "pve2", "pve"]
    site.destroy()
    assert site.pve.cts == []


def test_offline_node_stops_only_its_own_containers(site: Site) -> None:
    cluster(site).overlaid("proxmox: {node: pve}\ncontainers: {postgres-data: {node: pve2}}").up()
    site.pve.set_node_offline("pve2")
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert "Cannot change postgres-data: it is unknown" in caught.value.brief
    assert not site.up("analytics-platform", "airflow-orchestration")


WORKERS = (
    "defaults: {vmid_range: 200-219}\n"
    "containers:\n"
    "  airflow-orchestration: {services: {airflow: {executor: celery}}}\n"
    "  queue: {ip: .90, cores: 1, memory: 512, services: {redis: {}}}\n"
)


def workers(count: int) -> str:
    """Return an overlay with workers of Airflow, without a node of their own."""
    return WORKERS + "".join(
        f"  worker-{number}: {{ip: .{100 + number}, cores: 1, memory: 1024, services: {{airflow_worker: {{}}}}}}\n"
        for number in range(1, count + 1)
    )


def three_nodes(site: Site) -> Site:
    cluster(site).pve.add_node("pve3")
    return site


def nodes_of_workers(site: Site) -> dict[str, str]:
    return {ct.name: ct.node for ct in site.pve.cts if ct.name.startswith("worker-")}


def test_workers_spread_over_the_nodes(site: Site) -> None:
    three_nodes(site).overlaid("proxmox: {node: pve}\n" + workers(3)).up()
    assert nodes_of_workers(site) == {"worker-1": "pve2", "worker-2": "pve3", "worker-3": "pve"}
    assert {ct.node for ct in site.pve.cts if not ct.name.startswith("worker-")} == {"pve"}
    assert not site.up()
    site.overlaid("proxmox: {node: pve}\n" + workers(5)).up()
    assert list(nodes_of_workers(site).values()).count("pve3") == 2
    assert sorted(Counter(nodes_of_workers(site).values()).values()) == [1, 2, 2]
    site.destroy("worker-1", "worker-2")
    assert sorted(nodes_of_workers(site)) == ["worker-3", "worker-4", "worker-5"]


def test_plan_names_the_node_of_a_worker(site: Site) -> None:
    three_nodes(site).overlaid("proxmox: {node: pve}\n" + workers(1)).up()
    (plan,) = site.asked
    assert "worker-1: is created on pve2, the node with the fewest containers of its kind" in map(str, plan.notes)


def test_worker_with_a_node_stays_there_and_an_offline_node_gets_none(site: Site) -> None:
    three_nodes(site).pve.set_node_offline("pve3")
    pinned = workers(2).replace("  worker-2: {", "  worker-2: {node: pve, ")
    site.overlaid("proxmox: {node: pve}\n" + pinned).up()
    assert nodes_of_workers(site) == {"worker-1": "pve2", "worker-2": "pve"}


def test_only_node_has_all_workers(site: Site) -> None:
    site.overlaid(workers(2)).up()
    assert nodes_of_workers(site) == {"worker-1": "pve", "worker-2": "pve"}


def test_worker_is_shut_down_with_time_for_its_tasks_before_it_is_destroyed(site: Site) -> None:
    site.overlaid(workers(1)).up()
    site.pve.requests.clear()
    site.destroy("worker-1", "queue")
    ((path, body),) = [(path, body) for _, path, body in site.pve.requests if path.endswith("/status/shutdown")]
    assert "/lxc/" in path
    assert b"timeout=330" in body
    assert b"forceStop=1" in body
    assert "destroy worker-1" in " ".join(map(str, site.asked[-1].actions))
    assert nodes_of_workers(site) == {}


def test_vmids_from_a_range_are_kept(site: Site) -> None:
    site.pve.add_ct(200, "of-somebody-else", node="pve")
    site.overlaid(RANGE).up()
    assert vmids(site) == {
        "of-somebody-else": 200,
        "postgres-data": 201,
        "analytics-platform": 202,
        "airflow-orchestration": 203,
    }
    assert not site.up()
    site.destroy("analytics-platform")
    site.pve.ct(200).status = "stopped"
    site.pve.cts.remove(site.pve.ct(200))
    assert not site.up("postgres-data")
    (site.inventory.state_dir / "vmids.json").unlink()  # as on another machine: found by name and tags
    assert not site.up("postgres-data", "airflow-orchestration")
    assert [state.vmid for state in container_states(site.inventory)[0]] == [201, 200, 203]  # reserved, not created
    site.up()
    assert vmids(site)["analytics-platform"] == 200
    site.destroy()
    assert (site.pve.cts, json.loads((site.inventory.state_dir / "vmids.json").read_text())) == ([], {})


def test_vmid_of_an_invisible_guest_is_skipped(site: Site) -> None:
    site.pve.fail("GET", "/cluster/nextid", status=400, message="VM 200 already exists", times=1)
    site.overlaid(RANGE).up("postgres-data")
    assert vmids(site)["postgres-data"] == 201


def test_exhausted_range(site: Site) -> None:
    for vmid in (200, 201):
        site.pve.add_ct(vmid, f"x{vmid}", node="pve")
    with pytest.raises(HomelabError) as caught:
        site.overlaid(RANGE).up()
    assert caught.value.brief == "Cannot assign a vmid: the range is exhausted"
    assert "200-203" in caught.value.details
    assert len(site.pve.cts) == 2


def test_vmid_of_an_interrupted_create_is_kept(site: Site) -> None:
    site.overlaid(RANGE)
    site.pve.fail("POST", "/nodes/pve/lxc", status=599, message="Too many redirections", times=None)
    with pytest.raises(HomelabError):
        site.up("postgres-data")
    promised = json.loads((site.inventory.state_dir / "vmids.json").read_text())
    assert promised["postgres-data"] == 200
    site.pve.failures.clear()
    site.up("postgres-data")
    assert vmids(site) == {"postgres-data": 200}


def test_renamed_container_is_not_created_again(site: Site) -> None:
    site.overlaid(RANGE).up()
    (site.inventory.state_dir / "vmids.json").unlink()
    site.pve.ct(200).config["hostname"] = "renamed"
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert caught.value.brief == "Cannot create postgres-data: 200 may already be one of them"
    assert "`vmid: 200`" in caught.value.resolution
    assert site.pve.kinds().count("vzcreate") == len(NAMES)


def test_two_containers_with_the_same_name(site: Site) -> None:
    site.overlaid(RANGE).up()
    config = dict(site.pve.ct(200).config)
    site.pve.add_ct(290, "postgres-data", node="pve", config=config)
    with pytest.raises(HomelabError) as caught:
        site.up()
    assert caught.value.details == "200 and 290 have its name and this lab's tags."


def test_twenty_containers_in_parallel(site: Site) -> None:
    site.overlaid(many(20)).up()
    assert len(site.pve.cts) == 23
    site.pve.ct(310).config["memory"] = 512
    assert site.up().done == {"node-10": ["update node-10: memory: 512 → 128"]}
    assert site.up("node-3", "node-4").done == {}
    site.destroy("node-3")
    assert len(site.pve.cts) == 22
