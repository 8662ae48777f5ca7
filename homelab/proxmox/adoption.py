"""Guests that are not in the inventory: read their state, and set the tags that make one ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from homelab.errors import HomelabError
from homelab.plan import ObservedGuest
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered
from homelab.proxmox.inspect import from_cluster_list, with_config

_TRIES = 3  # attempts to send a change when the answers are lost


def guests(client: Client, vmids: Iterable[int]) -> dict[int, ObservedGuest]:
    """Return the existing ones of these guests by vmid; containers with their configuration. Raises HomelabError."""
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    found = {vmid: from_cluster_list(rows[vmid]) for vmid in vmids if vmid in rows}
    return {vmid: _with_configuration(client, guest) if guest.kind == "lxc" else guest for vmid, guest in found.items()}


def _with_configuration(client: Client, guest: ObservedGuest) -> ObservedGuest:
    guest = with_config(client, guest)
    shape, lock = guest.shape, guest.config.get("lock")
    if shape and not shape.cores:
        # Without a limit, a container may use all cores of the node; its status has their number.
        state = client.get(f"nodes/{guest.node}/lxc/{guest.vmid}/status/current")
        shape = replace(shape, cores=int(state.get("cpus") or 1))
    return replace(guest, shape=shape, lock=str(lock) if lock else guest.lock, tags=shape.tags if shape else guest.tags)


def tag(client: Client, guest: ObservedGuest, tags: Collection[str]) -> None:
    """Replace a container's tags. Raises HomelabError if its configuration has changed since `guest` was read."""
    path, wanted = f"nodes/{guest.node}/lxc/{guest.vmid}/config", frozenset(tags)
    for _ in range(_TRIES):
        try:
            client.put(path, tags=";".join(sorted(wanted)), digest=guest.digest)
            return
        except Unanswered as error:
            lost = error
        except ProxmoxError as error:
            if "detected modified configuration" not in error.details:
                raise
            raise HomelabError(
                f"Cannot tag {guest.name}: it was changed after it was read",
                f"Its configuration on node {guest.node} is no longer the one that was shown.",
                "Run the same command again: it reads the current state.",
            ) from error
        now = with_config(client, guest)
        if now.shape and now.shape.tags == wanted:
            return
    raise lost
