"""Read the observed state of guests, in as few calls as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from homelab.model import Container, Inventory, lab_tags
from homelab.plan import ObservedGuest, Usage, filtered_cards
from homelab.proxmox import description_metadata, firewall_api, interfaces, tasks
from homelab.proxmox.client import Client
from homelab.proxmox.errors import NODE_DOWN, REFUSED, ProxmoxError
from homelab.proxmox.properties import not_spoken_of, shape_of, tags

_ONE_CONNECTION, _CONNECTIONS = 10, 6


def find_guests(client: Client, inventory: Inventory) -> dict[int, ObservedGuest]:
    """Return the guests on the inventory's vmids, and all others with our lab's tags, by vmid.

    One call lists the cluster, one per node reads the live state (the cluster's list is up to 10 s old), and one
    per container of ours reads its configuration.
    """
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    wanted = {container.vmid: container for container in inventory.containers}
    found: dict[int, ObservedGuest | None] = {vmid: from_cluster_list(row) for vmid, row in rows.items()}
    nodes = {guest.node for vmid, guest in found.items() if guest and vmid in wanted and guest.kind == "lxc"}
    lives = {node: _live(client, node) for node in sorted(nodes)}
    seen = [guest for vmid, guest in found.items() if guest and vmid in wanted and guest.kind == "lxc"]
    reads = [partial(_inspected, client, wanted[guest.vmid], guest, lives[guest.node]) for guest in seen]
    found |= dict(zip((guest.vmid for guest in seen), _run_all(reads), strict=True))
    ours = lab_tags(inventory.lab)
    return {vmid: guest for vmid, guest in found.items() if guest and (vmid in wanted or ours <= guest.tags)}


def _run_all(reads: Sequence[Callable[[], ObservedGuest | None]]) -> Iterator[ObservedGuest | None]:
    """Yield the result of every read in order. Only many reads are worth the cost of several connections."""
    if len(reads) <= _ONE_CONNECTION:
        return (read() for read in reads)
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return pool.map(lambda read: read(), reads)


def from_cluster_list(row: Mapping[str, Any]) -> ObservedGuest:
    """Convert a row of the cluster's list, which is up to 10 s old."""
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
    """Return the node's containers with their live state, or None if the node is down."""
    try:
        return {int(row["vmid"]): row for row in client.get(f"nodes/{node}/lxc")}
    except ProxmoxError as error:
        if error.status != NODE_DOWN:
            raise
        return None


def _inspected(
    client: Client, container: Container, guest: ObservedGuest, live: Mapping[int, Mapping[str, Any]] | None
) -> ObservedGuest | None:
    """Return the guest's live state; None if it was removed after the cluster listed it."""
    if live is None:
        return replace(guest, status="unknown")
    if (row := live.get(guest.vmid)) is None:
        return None
    guest = replace(
        guest,
        status=str(row["status"]),
        lock=row.get("lock") or None,
        tags=tags(row.get("tags")),
        name=str(row.get("name", guest.name)),
        usage=_usage(row),
    )
    if guest.lock == "create":
        return _half_made(client, guest)
    if not guest.belongs_to(container):
        return guest
    try:
        return _located(client, container, _behind_firewall(client, container, with_config(client, guest)))
    except ProxmoxError as error:
        now = _live(client, guest.node) if error.status == REFUSED else None
        if now is None or guest.vmid in now:
            raise
        return None


def _behind_firewall(client: Client, container: Container, guest: ObservedGuest) -> ObservedGuest:
    """Add the firewall, if the inventory wants one or the network card has its flag set."""
    if container.shape.firewall or (guest.shape and guest.shape.firewall):
        cards = filtered_cards(container, guest)
        return replace(guest, firewall=firewall_api.read(client, guest.node, guest.vmid, cards))
    return guest


def _located(client: Client, container: Container, guest: ObservedGuest) -> ObservedGuest:
    """Add the addresses of a running container that uses DHCP, or has an IP filter for addresses by SLAAC."""
    filtered = container.shape.firewall and filtered_cards(container, guest)
    if guest.running and (container.uses_dhcp or filtered):
        return replace(guest, addresses=interfaces.read(client, guest.node, guest.vmid, guest.config))
    return guest


def inspect_container(client: Client, container: Container, node: str) -> ObservedGuest | None:
    """Return a container's live state on a node; None if the node does not have it."""
    guest = ObservedGuest(vmid=container.vmid, name=container.name, node=node, pool=container.shape.pool)
    return _inspected(client, container, guest, _live(client, node))


def _usage(row: Mapping[str, Any]) -> Usage:
    return Usage(
        cpu=float(row.get("cpu") or 0),
        memory=int(row.get("mem") or 0),
        memory_total=int(row.get("maxmem") or 0),
        disk=int(row.get("disk") or 0),
        disk_total=int(row.get("maxdisk") or 0),
        uptime=int(row.get("uptime") or 0),
    )


def _half_made(client: Client, guest: ObservedGuest) -> ObservedGuest:
    # While a create runs, the configuration contains only its lock; the task has the creator.
    task = next(iter(tasks.of_container(client, guest.node, guest.vmid, "vzcreate")), None)
    if task is None or not task.running:
        task = tasks.clone_into(client, guest.node, guest.vmid) or task
    return replace(guest, creator=task.creator, task=task.upid if task.running else None) if task else guest


def with_config(client: Client, guest: ObservedGuest) -> ObservedGuest:
    """Add a container's configuration, live and pending values, from one call."""
    rows = client.get(f"nodes/{guest.node}/lxc/{guest.vmid}/pending")
    waiting = tuple(str(row["key"]) for row in rows if "pending" in row or row.get("delete"))
    config = {row["key"]: row.get("pending", row.get("value")) for row in rows if not row.get("delete")}
    live = {row["key"]: row["value"] for row in rows if "value" in row}
    return replace(
        guest,
        shape=shape_of(config, guest.vmid, guest.pool),
        live=shape_of(live, guest.vmid, guest.pool),
        pending=waiting,
        config=config,
        sealed=guest.sealed or bool(config.get("template")),  # the cluster's list is up to 10 s old
        by_hand=tuple(not_spoken_of(config)),
        digest=config.get("digest"),
        template=description_metadata.source(str(config.get("description", ""))),
        unfinished=description_metadata.unfinished(str(config.get("description", ""))),
    )


def current_digest(client: Client, guest: ObservedGuest) -> str | None:
    """Return the current digest of a container's configuration; None if the container was removed."""
    try:
        digest = client.get(f"nodes/{guest.node}/lxc/{guest.vmid}/config").get("digest")
    except ProxmoxError as error:
        if error.status != REFUSED:
            raise
        return None
    return None if digest is None else str(digest)
