"""`homelab backup`: back up whole containers to a Proxmox storage with vzdump, list backups, prune old ones."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from homelab.plan import select_containers
from homelab.proxmox import Client, backups, vmids
from homelab.proxmox.backups import Backup, Made, Mode
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.plan_executor import only_node
from homelab.runtime.container_changes import UNCHANGED, audited_client, run_on_containers
from homelab.runtime.hook_runs import record_backup, with_hooks
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers
from homelab.runtime.session import Session

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class BackupOutcome:
    """The backups that were made; `confirmed` is False if the user declined."""

    made: Sequence[Made] = ()
    confirmed: bool = True

    def __str__(self) -> str:
        if not self.confirmed:
            return UNCHANGED
        return "\n".join(map(_line, self.made)) or "Nothing to do: no container exists."


def _line(made: Made) -> str:
    verb = {"stop": "it was down for", "suspend": "it was suspended for"}.get(made.mode) if made.still else None
    parts = (
        f"{made.container}: {made.volid}, {made.size / _MIB:.0f} MiB",
        verb and f"{verb} {made.still} s",
        f"{len(made.removed)} older removed" if made.removed else None,
    )
    return "; ".join(part for part in parts if part)


def backup(
    session: Session,
    *,
    confirm: Confirm,
    names: Sequence[str] = (),
    storage: str | None = None,
    mode: Mode | None = None,
    keep: int | None = None,
) -> BackupOutcome:
    """Back up the named containers, or all: one by one on each node, the nodes in parallel. Raises HomelabError.

    `keep` is the number of backups of each container to keep; without it, the storage's own retention decides.
    `confirm` decides if containers have to be shut down.
    """
    select_containers(session.inventory, names)
    with lab_lock(session.inventory.state_dir, "backup"):
        client = audited_client(session.inventory)
        containers = owned_containers(session, client, names)
        nodes = {each.found.node: threading.Lock() for each in containers}
        wanted = {each.name: (each.found.node, storage or each.container.backup_storage) for each in containers}
        targets = {each: backups.storage_for(client, *each) for each in set(wanted.values())}
        running = [each for each in containers if each.found.running] if mode == "stop" else []
        if running and not confirm(
            [f"{each.name} is shut down for its backup and started again afterwards" for each in running]
        ):
            return BackupOutcome(confirmed=False)

        def back_up(container: ManagedContainer) -> Made:
            target = targets[wanted[container.name]]
            with nodes[container.found.node]:  # a node makes one backup at a time
                container.free()
                pin = session.known_hosts.pins().get(container.name)
                note = backups.notes(session.inventory.lab, pin.fingerprint if pin else None)
                make = partial(backups.back_up, container, target, mode, note)
                made = with_hooks(session, container.container, make) if container.found.running else make()
                if container.found.running:
                    record_backup(session, container.container, booting=mode == "stop")
                return made if keep is None else replace(made, removed=backups.prune(container, target, keep))

        made = run_on_containers(client, {each.name: partial(back_up, each) for each in containers})
        return BackupOutcome(list(made.values()))


def list_backups(session: Session, *, names: Sequence[str] = (), storage: str | None = None) -> Sequence[Backup]:
    """Return the backups of the named containers, or of all, oldest first; removed containers included."""
    client = Client(session.inventory.endpoint)
    inventory = vmids.resolve_vmids(client, session.inventory)
    containers = select_containers(inventory, names)
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
