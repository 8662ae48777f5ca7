"""The existing containers of the lab, and points in time for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from homelab.errors import HomelabError
from homelab.model import Container
from homelab.plan import ObservedGuest, select_containers
from homelab.proxmox import Client, find_guests, vmids
from homelab.proxmox.managed_container import ManagedContainer
from homelab.runtime.session import Session

Confirm = Callable[[Sequence[str]], bool]  # receives the changes, line by line; returns the user's decision
_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def owned_containers(session: Session, client: Client, limit: Sequence[str]) -> list[ManagedContainer]:
    """Return the existing containers among those that `limit` names, or among all.

    Raises HomelabError for a guest without this lab's tags, and for a named container that does not exist.
    """
    inventory = vmids.resolve_vmids(client, session.inventory)
    found = find_guests(client, inventory)
    owned = []
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None and not limit:
            session.progress.note(container.name, "does not exist: left out")
        elif there is None:
            raise HomelabError(
                f"Cannot find {container.name}: it does not exist",
                f"Proxmox has no container with vmid {container.vmid}.",
                "`homelab up` creates it; `homelab restore` creates it from a backup.",
            )
        else:
            _require_owned(container, there)
            owned.append(ManagedContainer(client, container, there, session.progress))
    return owned


def _require_owned(container: Container, there: ObservedGuest) -> None:
    if there.status == "unknown":
        raise HomelabError(
            f"Cannot reach {container.name}: node {there.node} does not answer",
            f"{there.vmid} is on that node.",
            "Check in the web interface that the node is up, then run the same command again.",
        )
    if there.lock != "create" and not there.belongs_to(container):
        kind = "container" if there.kind == "lxc" else "virtual machine"
        raise HomelabError(
            f"Cannot use vmid {there.vmid} for {container.name}: it belongs to a {kind} that is not ours",
            f"`{there.name}` on node {there.node} does not have the tags {', '.join(sorted(container.lab_tags))}. "
            "It was not changed.",
            f"Write another vmid in the inventory, or adopt it: `homelab import {there.vmid}`.",
        )


def time_since(moment: int) -> str:
    """Return the time since a moment for people, such as `3 h ago`; `moment` in seconds since the epoch."""
    seconds = max(int(time.time()) - moment, 0)
    amount, unit = next(((seconds // length, unit) for unit, length in _UNITS if seconds >= length), (seconds, "s"))
    return f"{amount} {unit} ago"


def local_time(moment: int) -> str:
    """Return a moment in local time, to the minute; `moment` in seconds since the epoch."""
    return f"{datetime.fromtimestamp(moment).astimezone():%Y-%m-%d %H:%M}"
