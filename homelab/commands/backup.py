"""`homelab backup`: whole containers onto a storage of Proxmox's, with vzdump; which there are; how many are kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from homelab.known_hosts import KnownHosts
from homelab.model import Inventory
from homelab.plan import select_containers
from homelab.progress import Progress
from homelab.proxmox import Client, backups, vmids
from homelab.proxmox.backups import Backup, Made, Mode
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.plan_executor import only_node
from homelab.runtime.container_changes import audited_client, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BackedUp:
    """The backups that were made; `confirmed` is False when the user said no."""

    made: Sequence[Made] = ()
    confirmed: bool = True

    def __str__(self) -> str:
        if not self.confirmed:
            return "Nothing has been changed."
        return "\n".join(map(_line, self.made)) or "Nothing to do: no container is there."


def _line(made: Made) -> str:
    how = {"stop": "it was down for", "suspend": "it stood still for"}.get(made.mode) if made.still else None
    return "; ".join(
        part
        for part in (
            f"{made.container}: {made.volid}, {made.size / _MIB:.0f} MiB",
            how and f"{how} {made.still} s",
            f"{len(made.removed)} older removed" if made.removed else None,
        )
        if part
    )


def backup(
    inventory: Inventory,
    *,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Confirm,
    names: Sequence[str] = (),
    storage: str | None = None,
    mode: Mode | None = None,
    keep: int | None = None,
) -> BackedUp:
    """Back up the named containers, or all: one after the other on a node, the nodes side by side.

    `keep` is how many backups of each are left afterwards; without it, the storage's own retention decides.
    `confirm` is asked where containers are shut down for it. Raises HomelabError.
    """
    select_containers(inventory, names)
    with lab_lock(inventory.state_dir, "backup"):
        client = audited_client(inventory)
        there = owned_containers(client, vmids.resolve_vmids(client, inventory), names, progress)
        turns = {kept.found.node: threading.Lock() for kept in there}
        wanted = {kept.name: (kept.found.node, storage or kept.container.backup_storage) for kept in there}
        targets = {each: backups.storage_for(client, *each) for each in set(wanted.values())}
        if (
            mode == "stop"
            and (up := [kept for kept in there if kept.found.running])
            and not confirm([f"{kept.name} is shut down, and started again when its backup is made" for kept in up])
        ):
            return BackedUp(confirmed=False)

        def work(kept: ManagedContainer) -> Made:
            target = targets[wanted[kept.name]]
            with turns[kept.found.node]:  # a node makes one backup at a time
                kept.free()
                pin = known_hosts.pins().get(kept.name)
                note = backups.notes(inventory.lab, pin.fingerprint if pin else None)
                made = backups.back_up(kept, target, mode, note)
                if keep is None:
                    return made
                return replace(made, removed=backups.prune(kept, target, keep))

        return BackedUp(list(run_on_containers(client, {kept.name: partial(work, kept) for kept in there}).values()))


def listed(inventory: Inventory, *, names: Sequence[str] = (), storage: str | None = None) -> Sequence[Backup]:
    """The backups of the named containers, or of all, oldest first; the containers need not be there any more."""
    client = Client(inventory.endpoint)
    settled = vmids.resolve_vmids(client, inventory)
    containers = select_containers(settled, names)
    nodes = _nodes(client)
    places = {(nodes.get(c.vmid) or c.node or only_node(client), storage or c.backup_storage) for c in containers}
    names_of = {c.vmid: c.name for c in containers}
    found = {
        each.volid: each
        for node, wanted in places
        for each in backups.backups(client, node, backups.storage_for(client, node, wanted), names_of, inventory.lab)
    }
    return sorted(found.values(), key=lambda each: (each.container, each.made))


def _nodes(client: Client) -> Mapping[int, str]:
    return {int(row["vmid"]): str(row["node"]) for row in client.get("cluster/resources", type="vm")}
