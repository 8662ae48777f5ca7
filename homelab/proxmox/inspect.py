"""What is there: reads only, in as few calls as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from homelab.model import Container, Inventory, lab_tags
from homelab.plan import ObservedGuest, Usage
from homelab.proxmox import description_metadata, firewall_api, tasks
from homelab.proxmox.client import Client
from homelab.proxmox.errors import NODE_DOWN, REFUSED, ProxmoxError
from homelab.proxmox.properties import not_spoken_of, shape_of, tags

_ONE_CONNECTION, _CONNECTIONS = 10, 6


def find_guests(client: Client, inventory: Inventory) -> dict[int, ObservedGuest]:
    """Every guest on a vmid of the inventory, and every other one that carries our lab's tags, by vmid.

    One call lists the cluster, one per node gives the live state (the cluster's list is up to 10 s old), and one
    per container that is ours gives its configuration.
    """
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    wanted = {container.vmid: container for container in inventory.containers}
    found: dict[int, ObservedGuest | None] = {vmid: from_cluster_list(row) for vmid, row in rows.items()}
    nodes = {there.node for vmid, there in found.items() if there and vmid in wanted and there.kind == "lxc"}
    lives = {node: _live(client, node) for node in sorted(nodes)}
    seen = [there for vmid, there in found.items() if there and vmid in wanted and there.kind == "lxc"]
    looks = [partial(_looked_at, client, wanted[there.vmid], there, lives[there.node]) for there in seen]
    found |= dict(zip((there.vmid for there in seen), _together(looks), strict=True))
    ours = lab_tags(inventory.lab)
    return {vmid: there for vmid, there in found.items() if there and (vmid in wanted or ours <= there.tags)}


def _together(looks: Sequence[Callable[[], ObservedGuest | None]]) -> Iterator[ObservedGuest | None]:
    """What every look finds, in order. A few share one connection; for many, several connections are worth it."""
    if len(looks) <= _ONE_CONNECTION:
        return (inspect_container() for inspect_container in looks)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return pool.map(lambda inspect_container: inspect_container(), looks)


def from_cluster_list(row: Mapping[str, Any]) -> ObservedGuest:
    """A guest from the cluster's list, which is up to 10 s old."""
    return ObservedGuest(
        vmid=int(row["vmid"]),
        name=str(row.get("name", "")),
        node=str(row["node"]),
        kind="qemu" if row["type"] == "qemu" else "lxc",
        status=str(row.get("status", "unknown")),
        lock=row.get("lock") or None,
        tags=tags(row.get("tags")),
        pool=row.get("pool") or None,
        sealed=bool(row.get("template")),
    )


def _live(client: Client, node: str) -> Mapping[int, Mapping[str, Any]] | None:
    """The node's containers as they are now, or None if the node is down."""
    try:
        return {int(row["vmid"]): row for row in client.get(f"nodes/{node}/lxc")}
    except ProxmoxError as error:
        if error.status != NODE_DOWN:
            raise
        return None


def _looked_at(
    client: Client, container: Container, there: ObservedGuest, live: Mapping[int, Mapping[str, Any]] | None
) -> ObservedGuest | None:
    """As it is now; None if it has gone since the cluster listed it."""
    if live is None:
        return replace(there, status="unknown")
    if (row := live.get(there.vmid)) is None:
        return None
    there = replace(
        there,
        status=str(row["status"]),
        lock=row.get("lock") or None,
        tags=tags(row.get("tags")),
        name=str(row.get("name", there.name)),
        usage=_usage(row),
    )
    if there.lock == "create":
        return _half_made(client, there)
    if not there.belongs_to(container):
        return there
    try:
        return _behind_firewall(client, container, with_config(client, there))
    except ProxmoxError as error:
        now = _live(client, there.node) if error.status == REFUSED else None
        if now is None or there.vmid in now:
            raise
        return None


def _behind_firewall(client: Client, container: Container, there: ObservedGuest) -> ObservedGuest:
    """With its firewall, where the inventory wants one or its network card says that there is one."""
    if container.shape.firewall or (there.shape and there.shape.firewall):
        return replace(there, firewall=firewall_api.read(client, there.node, there.vmid))
    return there


def inspect_container(client: Client, container: Container, node: str) -> ObservedGuest | None:
    """A container as it is now on the node that has it, asked directly; None if it is not there."""
    there = ObservedGuest(vmid=container.vmid, name=container.name, node=node, pool=container.shape.pool)
    return _looked_at(client, container, there, _live(client, node))


def _usage(row: Mapping[str, Any]) -> Usage:
    return Usage(
        memory=int(row.get("mem") or 0),
        memory_total=int(row.get("maxmem") or 0),
        disk=int(row.get("disk") or 0),
        disk_total=int(row.get("maxdisk") or 0),
        uptime=int(row.get("uptime") or 0),
    )


def _half_made(client: Client, there: ObservedGuest) -> ObservedGuest:
    # While a create runs, the configuration shows nothing but its lock: the task says whose it is.
    task = next(iter(tasks.of_container(client, there.node, there.vmid, "vzcreate")), None)
    if task is None or not task.running:
        task = tasks.clone_into(client, there.node, there.vmid) or task
    return replace(there, creator=task.creator, task=task.upid if task.running else None) if task else there


def with_config(client: Client, there: ObservedGuest) -> ObservedGuest:
    """A container with its configuration. What is live and what waits for the next start comes in one answer."""
    rows = client.get(f"nodes/{there.node}/lxc/{there.vmid}/pending")
    waiting = tuple(str(row["key"]) for row in rows if "pending" in row or row.get("delete"))
    config = {row["key"]: row.get("pending", row.get("value")) for row in rows if not row.get("delete")}
    return replace(
        there,
        shape=shape_of(config, there.vmid, there.pool),
        pending=waiting,
        config=config,
        by_hand=tuple(not_spoken_of(config)),
        digest=config.get("digest"),
        template=description_metadata.source(str(config.get("description", ""))),
        unfinished=description_metadata.unfinished(str(config.get("description", ""))),
    )


def current_digest(client: Client, there: ObservedGuest) -> str | None:
    """The digest of a container's configuration at this moment; None if the container has gone."""
    try:
        digest = client.get(f"nodes/{there.node}/lxc/{there.vmid}/config").get("digest")
    except ProxmoxError as error:
        if error.status != REFUSED:
            raise
        return None
    return None if digest is None else str(digest)
