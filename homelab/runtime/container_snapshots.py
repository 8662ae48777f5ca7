"""The lab's containers with their snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from homelab.plan import select_containers
from homelab.proxmox import Client, snapshots
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.snapshots import Snapshot
from homelab.runtime.concurrency import run_all_or_raise
from homelab.runtime.owned_containers import owned_containers
from homelab.runtime.session import Session


def containers_with_snapshots(
    session: Session, client: Client, limit: Sequence[str]
) -> list[tuple[ManagedContainer, Sequence[Snapshot]]]:
    """Wait for this lab's own tasks, then return the containers and their snapshots. Raises HomelabError."""
    select_containers(session.inventory, limit)
    owned = owned_containers(session, client, limit)

    def read(container: ManagedContainer) -> Sequence[Snapshot]:
        container.free()
        return snapshots.snapshots(container)

    found = run_all_or_raise({each.name: partial(read, each) for each in owned})
    return [(each, found[each.name]) for each in owned]


def find_snapshot(found: Sequence[Snapshot], name: str) -> Snapshot | None:
    """Return the snapshot of that name, or None."""
    return next((each for each in found if each.name == name), None)
