"""Rollback of a failed deploy: a snapshot of each container before it is changed.

A snapshot exists only during a deploy. A file next to the lab's secrets lists the containers before their snapshots
are taken, so that the next run asks Proxmox for leftovers of an interrupted one, and only then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from homelab.errors import HomelabError, InputError, Interrupted
from homelab.host import Host
from homelab.model import Step
from homelab.private_files import read_private, write_private
from homelab.proxmox import Client, PlanExecutor, snapshots
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.privileges import grant, privileges_on
from homelab.proxmox.snapshots import Snapshot
from homelab.runtime.concurrency import run_all, run_all_or_raise
from homelab.runtime.container_changes import UNCHANGED, audited_client, run_on_containers
from homelab.runtime.container_snapshots import containers_with_snapshots, find_snapshot
from homelab.runtime.owned_containers import time_since
from homelab.runtime.session import Session
from homelab.steps.converge import LONGEST, REBOOT
from homelab.steps.host_state import inspect_host, removals
from homelab.steps.locking import wait_until_idle

SNAPSHOT = "homelab-deploy"
_PURPOSE = "before `homelab deploy --rollback-on-failure`"
_FRESH = 3600.0  # seconds for which the snapshot of an interrupted run is still the state to go back to


def changes_something(host: Host, steps: Sequence[Step]) -> bool:
    """Return True if a deploy would change the host; wait for an earlier run's commands first. Raises HomelabError."""
    seen = inspect_host(host, steps)
    if seen.busy:
        wait_until_idle(host, LONGEST)
        seen = inspect_host(host, steps)
    return any(not change.step.is_wait for change in (*removals(seen, steps), *seen.changes))


class DeployRollback:
    """The snapshots of one deploy; its methods may run in parallel for different containers."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._list = session.inventory.state_dir / "deploy-snapshots"
        self._lock = Lock()
        self._snapshots: dict[str, tuple[ManagedContainer, Snapshot]] = {}

    def prepare(self, to_change: Sequence[str], reached: Sequence[str]) -> None:
        """Take a snapshot of each container in `to_change`, or of none of them.

        Asks Proxmox nothing if there is nothing to change and no leftover of an interrupted run. Raises InputError if
        a storage or the token cannot take snapshots, HomelabError if Proxmox refuses; then nothing was changed.
        """
        listed = _read(self._list)
        affected = [name for name in reached if name in to_change or name in listed]
        if not affected:
            return
        client = audited_client(self._session.inventory)
        stale: list[tuple[ManagedContainer, Snapshot]] = []
        new: list[ManagedContainer] = []
        for container, found in containers_with_snapshots(self._session, client, affected):
            if leftover := self._leftover(container, found):
                stale.append((container, leftover))
            if container.name in to_change and container.name not in self._snapshots:
                new.append(container)
        _require_privileges(client, [*new, *(container for container, _ in self._snapshots.values())])
        _require_able(new)
        write_private(self._list, _text({*listed, *affected}))
        run_on_containers(client, {each.name: partial(snapshots.remove, each, old) for each, old in stale})
        self._take(client, new)
        self._unlist(name for name in affected if name not in self._snapshots)

    def _leftover(self, container: ManagedContainer, found: Sequence[Snapshot]) -> Snapshot | None:
        """Return the snapshot of an interrupted run that has to be removed; reuse one that is still good."""
        old = find_snapshot(found, SNAPSHOT)
        if old is None:
            return None
        good = not old.unfinished and old is found[-1] and time.time() - old.made < _FRESH
        self._session.progress.note(
            container.name,
            f"an earlier deploy was interrupted: its snapshot {SNAPSHOT}, taken {time_since(old.made)}, is "
            + ("reused for a rollback of this one" if good else "removed"),
        )
        if good:
            self._snapshots[container.name] = container, old
        return None if good else old

    def _take(self, client: Client, new: Sequence[ManagedContainer]) -> None:
        try:
            run_on_containers(client, {each.name: partial(snapshots.take, each, SNAPSHOT, _PURPOSE) for each in new})
        except Interrupted:
            raise
        except HomelabError:
            # The next run finds what cannot be removed now.
            run_all({each.name: partial(_drop, each) for each in new})
            raise
        self._snapshots |= {each.name: (each, _new_snapshot(each.name)) for each in new}

    def finish(self, host: Host, failure: HomelabError | None) -> tuple[HomelabError | None, bool]:
        """Roll the container back if its deploy failed, and remove its snapshot.

        Returns the failure to report, and True after a rollback.
        """
        if host.name not in self._snapshots:
            return failure, False
        container, snapshot = self._snapshots[host.name]
        rolled_back = failure is not None
        if failure:
            try:
                self._roll_back(container, host)
            except HomelabError as error:
                return HomelabError(
                    failure.brief,
                    f"{failure.details}\nThe rollback failed, too: {error}",
                    f"After fixing that: `homelab snapshot rollback {SNAPSHOT} --limit {container.name}`",
                ), False
            self._session.progress.event(container.name, "rolled_back", snapshot=SNAPSHOT, made=snapshot.made)
            failure = _extend(
                failure,
                f"The container was rolled back to its state of {time_since(snapshot.made)}; later changes in it "
                "are lost.",
            )
        try:
            snapshots.remove(container, snapshot)
        except HomelabError as error:
            return _not_removed(container.name, error, failure), rolled_back
        self._unlist([container.name])
        return failure, rolled_back

    def _roll_back(self, container: ManagedContainer, host: Host) -> None:
        task = snapshots.go_back(container, SNAPSHOT)
        executor = PlanExecutor(container.client, "", self._session.known_hosts, self._session.progress)
        with self._session.progress.step(container.name, "start"):
            executor.await_start(container.container, container.found.node, task.started)
        with self._session.progress.step(container.name, "wait for SSH"):
            host.reconnect(REBOOT)

    def _unlist(self, names: Iterable[str]) -> None:
        with self._lock:
            if left := _read(self._list) - set(names):
                write_private(self._list, _text(left))
            else:
                self._list.unlink(missing_ok=True)


def _new_snapshot(container: str) -> Snapshot:
    return Snapshot(
        container=container, name=SNAPSHOT, made=int(time.time()), description=_PURPOSE, parent=None, current=True
    )


def _extend(failure: HomelabError, more: str) -> HomelabError:
    return HomelabError(failure.brief, f"{failure.details}\n{more}", failure.resolution)


def _not_removed(container: str, error: HomelabError, failure: HomelabError | None) -> HomelabError:
    remove = f"`homelab snapshot delete {SNAPSHOT} --limit {container}`"
    if failure:
        return _extend(failure, f"Its snapshot could not be removed: {error}\nRemove it: {remove}")
    return HomelabError(
        f"Cannot remove snapshot {SNAPSHOT} of {container} after its deploy", str(error), f"Remove it: {remove}"
    )


def _read(file: Path) -> set[str]:
    """Return the listed containers. Raises InputError if the file cannot be read."""
    resolution = f"Delete it. `homelab snapshot list` shows leftovers; they are named {SNAPSHOT}."
    return set((read_private(file, resolution) or "").split())


def _text(names: Collection[str]) -> bytes:
    return "".join(f"{name}\n" for name in sorted(names)).encode()


def _require_privileges(client: Client, containers: Sequence[ManagedContainer]) -> None:
    """Raise InputError if the token could not roll back: that would show only when it is needed."""
    permissions = client.get("access/permissions") if containers else {}
    for container in containers:
        path = f"/vms/{container.found.vmid}"
        for privilege in ("VM.Snapshot", "VM.Snapshot.Rollback"):
            if privilege not in privileges_on(permissions, path):
                raise InputError(
                    "Cannot take snapshots: the token lacks a privilege",
                    f"It has no {privilege} on {path}. {UNCHANGED}",
                    grant(f"({path}, {privilege})", client.endpoint.token_id),
                )


def _require_able(new: Sequence[ManagedContainer]) -> None:
    unsupported = run_all_or_raise({each.name: partial(snapshots.unsupported_disks, each) for each in new})
    if any(unsupported.values()):
        error = snapshots.unable({name: why for name, why in unsupported.items() if why})
        raise InputError(
            error.brief,
            f"{error.details}\nSo a rollback would not be possible. {UNCHANGED}",
            f"Deploy without `--rollback-on-failure`. {error.resolution}",
        )


def _drop(container: ManagedContainer) -> None:
    if found := find_snapshot(snapshots.snapshots(container), SNAPSHOT):
        snapshots.remove(container, found)
