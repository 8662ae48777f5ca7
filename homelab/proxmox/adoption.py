"""Guests that are not in the inventory: how they are, and the tags that make one ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from homelab.errors import HomelabError
from homelab.plan import ObservedGuest
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered
from homelab.proxmox.inspect import from_cluster_list, with_config

_TRIES = 3  # times that a change is sent whose answers are lost


def guests(client: Client, vmids: Iterable[int]) -> dict[int, ObservedGuest]:
    """Those of these guests that are there, by vmid; the containers with their configuration. Raises HomelabError."""
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    found = {vmid: from_cluster_list(rows[vmid]) for vmid in vmids if vmid in rows}
    return {vmid: _looked_into(client, there) if there.kind == "lxc" else there for vmid, there in found.items()}


def _looked_into(client: Client, there: ObservedGuest) -> ObservedGuest:
    there = with_config(client, there)
    shape, lock = there.shape, there.config.get("lock")
    if shape and not shape.cores:
        # It may use all the node's; how many that are is in its state.
        state = client.get(f"nodes/{there.node}/lxc/{there.vmid}/status/current")
        shape = replace(shape, cores=int(state.get("cpus") or 1))
    return replace(there, shape=shape, lock=str(lock) if lock else there.lock, tags=shape.tags if shape else there.tags)


def tag(client: Client, there: ObservedGuest, tags: Collection[str]) -> None:
    """Give a container these tags, and no others. Raises HomelabError if it has changed since it was looked at."""
    path, wanted = f"nodes/{there.node}/lxc/{there.vmid}/config", frozenset(tags)
    for _ in range(_TRIES):
        try:
            client.put(path, tags=";".join(sorted(wanted)), digest=there.digest)
            return
        except Unanswered as error:
            lost = error
        except ProxmoxError as error:
            if "detected modified configuration" not in error.details:
                raise
            raise HomelabError(
                f"{there.name} was changed after it was looked at",
                f"Its configuration on node {there.node} is not the one any more that was shown.",
                "Run the same command again: it looks anew, and goes on from there.",
            ) from error
        now = with_config(client, there)
        if now.shape and now.shape.tags == wanted:
            return
    raise lost
