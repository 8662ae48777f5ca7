"""`homelab snapshot`: create, list, roll back to, and delete snapshots of the containers on their own storage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.proxmox import Client, PlanExecutor, snapshots
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.snapshots import Snapshot
from homelab.runtime.concurrency import run_all_or_raise
from homelab.runtime.container_changes import Outcome, audited_client, run_on_containers
from homelab.runtime.container_snapshots import containers_with_snapshots, find_snapshot
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers, time_since
from homelab.runtime.session import Session

_NO_CONTAINER = "Nothing to do: no container exists."


def create(session: Session, name: str, *, limit: Sequence[str] = (), description: str = "") -> Outcome:
    """Take a snapshot of each container that has none of that name, in parallel. Raises HomelabError.

    Takes none if one of the storages cannot.
    """
    snapshots.check_name(name)
    with lab_lock(session.inventory.state_dir, "snapshot create"):
        client = audited_client(session.inventory)
        containers = containers_with_snapshots(session, client, limit)
        missing = []
        for container, found in containers:
            if (existing := find_snapshot(found, name)) is None:
                missing.append(container)
                continue
            _require_complete(container, existing)
            session.progress.note(container.name, f"already has {name}, taken {time_since(existing.made)}")
        unsupported = run_all_or_raise({each.name: partial(snapshots.unsupported_disks, each) for each in missing})
        if any(unsupported.values()):
            raise snapshots.unable({container: why for container, why in unsupported.items() if why})
        run_on_containers(client, {each.name: partial(snapshots.take, each, name, description) for each in missing})
    return Outcome(
        {each.name: [f"{each.name}: snapshot {name} taken"] for each in missing},
        nothing=f"Nothing to do: every container has {name}." if containers else _NO_CONTAINER,
    )


def list_snapshots(session: Session, *, limit: Sequence[str] = ()) -> Sequence[Snapshot]:
    """Return the snapshots by container, oldest first. Raises HomelabError."""
    containers = owned_containers(session, Client(session.inventory.endpoint), limit)
    found = run_all_or_raise({each.name: partial(snapshots.snapshots, each) for each in containers})
    return [snapshot for snapshots_of_one in found.values() for snapshot in snapshots_of_one]


def rollback(session: Session, name: str, *, confirm: Confirm, limit: Sequence[str] = ()) -> Outcome:
    """Roll the containers back to the snapshot of that name, in parallel, and start them. Raises HomelabError.

    Changes nothing if one of them lacks it. `confirm` receives one line per container with the time that is lost.
    """
    snapshots.check_name(name)
    with lab_lock(session.inventory.state_dir, "snapshot rollback"):
        client = audited_client(session.inventory)
        containers = containers_with_snapshots(session, client, limit)
        targets = [(container, _require(container, found, name)) for container, found in containers]
        if not targets:
            return Outcome(nothing=_NO_CONTAINER)
        for (container, found), (_, target) in zip(containers, targets, strict=True):
            snapshots.require_way_back(container, found, target)
        if not confirm([_rollback_line(container, target) for container, target in targets]):
            return Outcome(confirmed=False)
        executor = PlanExecutor(client, "", session.known_hosts, session.progress)
        run_on_containers(client, {each.name: partial(_roll_back, executor, each, to) for each, to in targets})
    return Outcome(
        {
            each.name: [f"{each.name}: rolled back to its state of {time_since(to.made)}, configuration included"]
            for each, to in targets
        }
    )


def delete(session: Session, name: str, *, confirm: Confirm, limit: Sequence[str] = ()) -> Outcome:
    """Delete the snapshots of that name; the containers stay as they are. Raises HomelabError."""
    with lab_lock(session.inventory.state_dir, "snapshot delete"):
        client = audited_client(session.inventory)
        containers = containers_with_snapshots(session, client, limit)
        targets = [(each, snapshot) for each, found in containers if (snapshot := find_snapshot(found, name))]
        if not targets:
            return Outcome(nothing=f"Nothing to do: there is no snapshot {name}.")
        if not confirm([f"{each.name}: delete snapshot {name}, taken {time_since(s.made)}" for each, s in targets]):
            return Outcome(confirmed=False)
        run_on_containers(client, {each.name: partial(snapshots.remove, each, s) for each, s in targets})
    return Outcome({each.name: [f"{each.name}: snapshot {name} deleted"] for each, _ in targets})


def _rollback_line(container: ManagedContainer, target: Snapshot) -> str:
    start = "It is stopped immediately and started again." if container.found.running else "It is started."
    back = f"{container.name} goes back to {target.name}, taken {time_since(target.made)}"
    return f"{back}: everything later is lost. {start}"


def _require(container: ManagedContainer, found: Sequence[Snapshot], name: str) -> Snapshot:
    snapshot = find_snapshot(found, name)
    if snapshot is None:
        names = ", ".join(each.name for each in found) or "none"
        raise InputError(
            f"Cannot find snapshot {name} of {container.name}: it does not exist",
            f"Its snapshots: {names}.",
            "Name one of these, or select the containers that have it with `--limit`.",
        )
    _require_complete(container, snapshot)
    return snapshot


def _require_complete(container: ManagedContainer, snapshot: Snapshot) -> None:
    if snapshot.unfinished:
        doing = "deletion" if snapshot.unfinished == "delete" else "creation"
        raise HomelabError(
            f"Cannot use snapshot {snapshot.name} of {container.name}: it is incomplete",
            f"Its {doing} was interrupted.",
            f"Delete the rest of it: `homelab snapshot delete {snapshot.name} --limit {container.name}`",
        )


def _roll_back(executor: PlanExecutor, container: ManagedContainer, target: Snapshot) -> None:
    # A rollback of an interrupted run that ended meanwhile is not repeated.
    done = [task for task, status in container.waited.items() if task.kind == "vzrollback" and status == "OK"]
    task = done[0] if done and target.current else snapshots.go_back(container, target.name)
    with container.progress.step(container.name, "start"):
        executor.await_start(container.container, container.found.node, task.started)
