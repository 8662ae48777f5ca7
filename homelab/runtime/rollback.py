"""The way back of `homelab deploy --rollback-on-failure`: a snapshot of each container before it is changed.

A snapshot is there only while a deploy goes on. Which containers have one is noted beside the lab's secrets before it
is taken, so that the next run asks Proxmox about what a killed one has left, and only then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from threading import Lock

from homelab.commands.snapshot import looked_at, named
from homelab.errors import HomelabError, InputError
from homelab.host import Host
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory, Step
from homelab.private_files import write_private
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, snapshots
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.privileges import grant, privileges_on
from homelab.proxmox.snapshots import Snapshot
from homelab.runtime.concurrency import run_all, run_all_or_raise
from homelab.runtime.container_changes import Interrupted, audited_client, run_on_containers
from homelab.runtime.owned_containers import time_since
from homelab.steps.converge import LONGEST, REBOOT
from homelab.steps.host_state import inspect_host, removals
from homelab.steps.locking import wait_until_idle

SNAPSHOT = "homelab-deploy"
_FRESH = 3600.0  # seconds for which what a killed run has left is still where the next one goes back to


def changes_something(host: Host, steps: Sequence[Step]) -> bool:
    """Whether a deploy would change anything there, once what an earlier run began has ended. Raises HomelabError."""
    seen = inspect_host(host, steps)
    if seen.busy:
        wait_until_idle(host, LONGEST)
        seen = inspect_host(host, steps)
    return any(not change.step.waits for change in (*removals(seen, steps), *seen.changes))


class DeployRollback:
    """The snapshots of one deploy; its methods may be called from threads, each for a container of its own."""

    def __init__(self, inventory: Inventory, known_hosts: KnownHosts, progress: Progress) -> None:
        self._inventory, self._known_hosts, self._progress = inventory, known_hosts, progress
        self._note = inventory.state_dir / "deploy-snapshots"
        self._lock = Lock()
        self._kept: dict[str, tuple[ManagedContainer, Snapshot]] = {}

    def prepare(self, changing_now: Sequence[str], reached: Sequence[str]) -> None:
        """Take a snapshot of each container that is about to be changed, or of none of them.

        Proxmox is not asked if there is nothing to change and nothing left of a killed run. Raises InputError if a
        storage cannot take snapshots, HomelabError if Proxmox will not: then nothing has been changed.
        """
        noted = _noted(self._note)
        about = [name for name in reached if name in changing_now or name in noted]
        if not about:
            return
        client = audited_client(self._inventory)
        stale: list[tuple[ManagedContainer, Snapshot]] = []
        new: list[ManagedContainer] = []
        for kept, found in looked_at(client, self._inventory, about, self._progress):
            if left := self._left_behind(kept, found):
                stale.append((kept, left))
            if kept.name in changing_now and kept.name not in self._kept:
                new.append(kept)
        _require_privileges(client, [*new, *(kept for kept, _ in self._kept.values())])
        _require_able(new)
        write_private(self._note, _lines({*noted, *about}))
        run_on_containers(client, {kept.name: partial(snapshots.remove, kept, left) for kept, left in stale})
        self._take(client, new)
        self._forget(name for name in about if name not in self._kept)

    def _left_behind(self, kept: ManagedContainer, found: Sequence[Snapshot]) -> Snapshot | None:
        """What a killed run has left and has to go; what is still good is kept, to go back to."""
        left = named(found, SNAPSHOT)
        if left is None:
            return None
        good = not left.unfinished and left is found[-1] and time.time() - left.made < _FRESH
        then = "is kept, and is what this one goes back to" if good else "is removed"
        self._progress.note(
            kept.name, f"an earlier deploy was cut off: its snapshot {SNAPSHOT}, taken {time_since(left.made)}, {then}"
        )
        if good:
            self._kept[kept.name] = kept, left
        return None if good else left

    def _take(self, client: Client, new: Sequence[ManagedContainer]) -> None:
        what_for = "before `homelab deploy --rollback-on-failure`"
        try:
            run_on_containers(client, {kept.name: partial(snapshots.take, kept, SNAPSHOT, what_for) for kept in new})
        except Interrupted:
            raise
        except HomelabError:
            # What cannot be removed now is found by the next run.
            run_all({kept.name: partial(_drop, kept) for kept in new})
            raise
        self._kept |= {
            kept.name: (
                kept,
                Snapshot(
                    container=kept.name,
                    name=SNAPSHOT,
                    made=int(time.time()),
                    description=what_for,
                    parent=None,
                    current=True,
                ),
            )
            for kept in new
        }

    def end(self, host: Host, failure: HomelabError | None) -> tuple[HomelabError | None, bool]:
        """Go back if the container's deploy has failed, and remove its snapshot.

        Returns what is to be reported as its failure, and whether it went back.
        """
        if host.name not in self._kept:
            return failure, False
        kept, snapshot = self._kept[host.name]
        rolled_back = failure is not None
        if failure:
            try:
                self._go_back(kept, host)
            except HomelabError as error:
                return HomelabError(
                    failure.brief,
                    f"{failure.details}\nAnd it did not go back to where it was: {error}",
                    f"When that is mended: homelab snapshot rollback {SNAPSHOT} --limit {kept.name}",
                ), False
            self._progress.event(kept.name, "rolled_back", snapshot=SNAPSHOT, made=snapshot.made)
            failure = _and(
                failure,
                f"The container was rolled back: it is as it was {time_since(snapshot.made)}, and what "
                "came after that is lost.",
            )
        try:
            snapshots.remove(kept, snapshot)
        except HomelabError as error:
            resolution = f"homelab snapshot delete {SNAPSHOT} --limit {kept.name}"
            return _and(failure, f"Its snapshot is still there: {error}\nRemove it: {resolution}") if failure else (
                HomelabError(
                    f"{kept.name} is deployed, but its snapshot {SNAPSHOT} is still there",
                    str(error),
                    f"Remove it: {resolution}",
                )
            ), rolled_back
        self._forget([kept.name])
        return failure, rolled_back

    def _go_back(self, kept: ManagedContainer, host: Host) -> None:
        task = snapshots.go_back(kept, SNAPSHOT)
        with self._progress.step(kept.name, "start"):
            PlanExecutor(kept.client, "", self._known_hosts, self._progress).await_start(
                kept.container, kept.found.node, task.started
            )
        with self._progress.step(kept.name, "waiting for it to answer again"):
            host.reconnect(REBOOT)

    def _forget(self, names: Iterable[str]) -> None:
        with self._lock:
            if left := _noted(self._note) - set(names):
                write_private(self._note, _lines(left))
            else:
                self._note.unlink(missing_ok=True)


def _and(failure: HomelabError, more: str) -> HomelabError:
    return HomelabError(failure.brief, f"{failure.details}\n{more}", failure.resolution)


def _noted(file: Path) -> set[str]:
    return set(file.read_text().split()) if file.exists() else set()


def _lines(names: Collection[str]) -> bytes:
    return "".join(f"{name}\n" for name in sorted(names)).encode()


def _require_privileges(client: Client, about: Sequence[ManagedContainer]) -> None:
    """Raise HomelabError if the token could not go back: that would come out only when it is needed."""
    permissions = client.get("access/permissions") if about else {}
    for kept in about:
        path = f"/vms/{kept.found.vmid}"
        for privilege in ("VM.Snapshot", "VM.Snapshot.Rollback"):
            if privilege not in privileges_on(permissions, path):
                raise InputError(
                    "Proxmox does not allow this token to take snapshots and to go back to them",
                    f"It has no {privilege} on {path}. Nothing has been changed.",
                    grant(f"({path}, {privilege})", client.endpoint.token_id),
                )


def _require_able(new: Sequence[ManagedContainer]) -> None:
    cannot = run_all_or_raise({kept.name: partial(snapshots.unsupported_disks, kept) for kept in new})
    if any(cannot.values()):
        error = snapshots.unable({name: why for name, why in cannot.items() if why})
        raise InputError(
            error.brief,
            f"{error.details}\nSo there would be no way back. Nothing has been changed.",
            f"Deploy without `--rollback-on-failure`. {error.resolution}",
        )


def _drop(kept: ManagedContainer) -> None:
    if there := named(snapshots.snapshots(kept), SNAPSHOT):
        snapshots.remove(kept, there)
