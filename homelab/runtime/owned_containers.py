"""What `snapshot`, `backup` and `restore` share: the containers that are there and ours, and how long ago is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from homelab.errors import HomelabError
from homelab.model import Container, Inventory
from homelab.plan import ObservedGuest, select_containers
from homelab.progress import Progress
from homelab.proxmox import Client, find_guests
from homelab.proxmox.managed_container import ManagedContainer

Confirm = Callable[[Sequence[str]], bool]  # is shown what would happen, and says whether to go on
_UNITS = (("d", 86400), ("h", 3600), ("min", 60))


def owned_containers(
    client: Client, inventory: Inventory, limit: Sequence[str], progress: Progress
) -> list[ManagedContainer]:
    """The containers that `limit` names, or all that are there. Raises HomelabError for one that is not ours.

    One that is not there is an error only if it is named.
    """
    found = find_guests(client, inventory)
    kept = []
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None and not limit:
            progress.note(container.name, "it is not there: left out")
        elif there is None:
            raise HomelabError(
                f"{container.name} is not there",
                "There is no container of this name yet.",
                "`homelab up` makes it; `homelab restore` makes it from a backup.",
            )
        else:
            _require_ours(container, there)
            kept.append(ManagedContainer(client, container, there, progress))
    return kept


def _require_ours(container: Container, there: ObservedGuest) -> None:
    if there.status == "unknown":
        raise HomelabError(
            f"{container.name}: node {there.node} does not answer",
            "It is on that node.",
            "See in the web interface whether the node is up, then run the same command again.",
        )
    if there.lock != "create" and not there.belongs_to(container):
        raise HomelabError(
            f"{there.vmid} is not ours",
            f"It is `{there.name}` on node {there.node}, without the tags "
            f"{', '.join(sorted(container.lab_tags))}: it was not touched.",
            "Write another vmid in the inventory, or adopt it: `homelab import`.",
        )


def time_since(made: int) -> str:
    """How long ago that was, in words; `made` in seconds since the epoch."""
    seconds = max(int(time.time()) - made, 0)
    amount, unit = next(((seconds // length, unit) for unit, length in _UNITS if seconds >= length), (seconds, "s"))
    return f"{amount} {unit} ago"


def local_time(made: int) -> str:
    """The local time, to the minute."""
    return f"{datetime.fromtimestamp(made).astimezone():%Y-%m-%d %H:%M}"
