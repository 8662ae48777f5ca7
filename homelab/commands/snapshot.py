"""`homelab snapshot`: the containers' state kept where they are, and gone back to; each alone or all at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory
from homelab.plan import select_containers
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, snapshots, vmids
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.snapshots import Snapshot
from homelab.runtime.concurrency import run_all_or_raise
from homelab.runtime.container_changes import Outcome, audited_client, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers, time_since


def create(
    inventory: Inventory, name: str, *, progress: Progress, limit: Sequence[str] = (), description: str = ""
) -> Outcome:
    """Take a snapshot of that name of each container that has none of it, at once. Raises HomelabError.

    Nothing is done if one of the storages cannot.
    """
    snapshots.check_name(name)
    with lab_lock(inventory.state_dir, "snapshot create"):
        client = audited_client(inventory)
        there = looked_at(client, inventory, limit, progress)
        missing = []
        for kept, found in there:
            if (has := named(found, name)) is None:
                missing.append(kept)
                continue
            _require_whole(kept, has)
            progress.note(kept.name, f"has {name} already, taken {time_since(has.made)}")
        cannot = run_all_or_raise({kept.name: partial(snapshots.unsupported_disks, kept) for kept in missing})
        if any(cannot.values()):
            raise snapshots.unable({who: why for who, why in cannot.items() if why})
        run_on_containers(client, {kept.name: partial(snapshots.take, kept, name, description) for kept in missing})
    return Outcome(
        {kept.name: [f"{kept.name}: snapshot {name} is taken"] for kept in missing},
        nothing=f"Nothing to do: every container has {name}." if there else "Nothing to do: no container is there.",
    )


def listed(inventory: Inventory, *, progress: Progress, limit: Sequence[str] = ()) -> Sequence[Snapshot]:
    """The snapshots of the containers, container by container, oldest first. Raises HomelabError."""
    client = Client(inventory.endpoint)
    there = owned_containers(client, vmids.resolve_vmids(client, inventory), limit, progress)
    return [
        each
        for found in run_all_or_raise({kept.name: partial(snapshots.snapshots, kept) for kept in there}).values()
        for each in found
    ]


def rollback(
    inventory: Inventory,
    name: str,
    *,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Confirm,
    limit: Sequence[str] = (),
) -> Outcome:
    """Go back to the snapshot of that name, on all containers at once, and start them. Raises HomelabError.

    Nothing is done if one of them does not have it. What came after it is lost: `confirm` is told how much.
    """
    snapshots.check_name(name)
    with lab_lock(inventory.state_dir, "snapshot rollback"):
        client = audited_client(inventory)
        found = looked_at(client, inventory, limit, progress)
        targets = [(kept, _required(kept, has, name)) for kept, has in found]
        if not targets:
            return Outcome(nothing="Nothing to do: no container is there.")
        for (kept, theirs), (_, has) in zip(found, targets, strict=True):
            snapshots.require_way_back(kept, theirs, has)
        if not confirm(
            [
                f"{kept.name} goes back to {name}, taken {time_since(has.made)}: all that came after is lost. "
                + ("It is stopped at once, and started again." if kept.found.running else "It is started.")
                for kept, has in targets
            ]
        ):
            return Outcome(confirmed=False)
        builder = PlanExecutor(client, "", known_hosts, progress)
        run_on_containers(client, {kept.name: partial(_go_back, builder, kept, has) for kept, has in targets})
    return Outcome(
        {
            kept.name: [f"{kept.name}: it is as it was {time_since(has.made)}, its configuration too"]
            for kept, has in targets
        }
    )


def delete(
    inventory: Inventory, name: str, *, progress: Progress, confirm: Confirm, limit: Sequence[str] = ()
) -> Outcome:
    """Remove the snapshots of that name; the containers stay as they are. Raises HomelabError."""
    with lab_lock(inventory.state_dir, "snapshot delete"):
        client = audited_client(inventory)
        there = looked_at(client, inventory, limit, progress)
        targets = [(kept, has) for kept, found in there if (has := named(found, name))]
        if not targets:
            return Outcome(nothing=f"Nothing to do: there is no snapshot {name}.")
        if not confirm(
            [f"{kept.name}: snapshot {name}, taken {time_since(has.made)}, is removed" for kept, has in targets]
        ):
            return Outcome(confirmed=False)
        run_on_containers(client, {kept.name: partial(snapshots.remove, kept, has) for kept, has in targets})
    return Outcome({kept.name: [f"{kept.name}: snapshot {name} is removed"] for kept, _ in targets})


def looked_at(
    client: Client, inventory: Inventory, limit: Sequence[str], progress: Progress
) -> list[tuple[ManagedContainer, Sequence[Snapshot]]]:
    """The containers, once what we have begun on them has ended, with their snapshots. Raises HomelabError."""
    select_containers(inventory, limit)
    there = owned_containers(client, vmids.resolve_vmids(client, inventory), limit, progress)

    def look(kept: ManagedContainer) -> Sequence[Snapshot]:
        kept.free()
        return snapshots.snapshots(kept)

    found = run_all_or_raise({kept.name: partial(look, kept) for kept in there})
    return [(kept, found[kept.name]) for kept in there]


def named(found: Sequence[Snapshot], name: str) -> Snapshot | None:
    """The snapshot of that name, if there is one."""
    return next((each for each in found if each.name == name), None)


def _required(kept: ManagedContainer, found: Sequence[Snapshot], name: str) -> Snapshot:
    has = named(found, name)
    if has is None:
        names = ", ".join(each.name for each in found) or "none at all"
        raise InputError(
            f"{kept.name} has no snapshot {name}",
            f"It has {names}.",
            "Name one that it has, or the containers that have it with `--limit`.",
        )
    _require_whole(kept, has)
    return has


def _require_whole(kept: ManagedContainer, has: Snapshot) -> None:
    if has.unfinished:
        raise HomelabError(
            f"{kept.name}: snapshot {has.name} is not whole",
            f"It was cut off while it was {'removed' if has.unfinished == 'delete' else 'taken'}.",
            f"Remove what is left of it: homelab snapshot delete {has.name} --limit {kept.name}",
        )


def _go_back(builder: PlanExecutor, kept: ManagedContainer, has: Snapshot) -> None:
    # A killed run's rollback that has ended while we waited for it need not be made again.
    done = [task for task, status in kept.waited.items() if task.kind == "vzrollback" and status == "OK"]
    task = done[0] if done and has.current else snapshots.go_back(kept, has.name)
    with kept.progress.step(kept.name, "start"):
        builder.await_start(kept.container, kept.found.node, task.started)
