"""`homelab restore`: create a missing container from its backup."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import Pin
from homelab.model import Container
from homelab.plan import ObservedGuest, Start, select_containers
from homelab.proxmox import Client, PlanExecutor, backups, find_guests, hostkeys, restores, tasks, vmids
from homelab.proxmox.backups import Backup
from homelab.proxmox.plan_executor import only_node
from homelab.proxmox.tasks import Task
from homelab.runtime.container_changes import Outcome, audited_client
from homelab.runtime.hook_runs import finish_restore, has_hooks
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, time_since
from homelab.runtime.session import Session

_EARLIER = 6 * 3600.0  # seconds to wait for the restore of an earlier run


def restore(
    session: Session, name: str, volid: str | None = None, *, confirm: Confirm, storage: str | None = None
) -> Outcome:
    """Create a container from a backup, the newest unless `volid` names one, and start it. Raises HomelabError.

    Refuses to replace an existing container. The SSH host keys, and so the pin, are those of the backup. Without the
    key that the backup accepts, `confirm` receives a warning first.
    """
    select_containers(session.inventory, [name])
    if not session.secrets.has_key("operator") and not confirm(_without_key(session.inventory.state_dir, name)):
        return Outcome(confirmed=False)
    with lab_lock(session.inventory.state_dir, "restore"):
        client = audited_client(session.inventory)
        session = session.on(vmids.resolve_vmids(client, session.inventory, take=True))
        return _Restore(session, client, select_containers(session.inventory, [name])[0]).run(volid, storage)


def _without_key(folder: Path, name: str) -> Sequence[str]:
    return (
        f"{folder} has no SSH key. It was lost, or this is another copy of the inventory.",
        f"The restored {name} accepts only the key from the time of its backup, so homelab cannot log in to it.",
        f"Copy your own backup of {folder} back first, with its keys and passwords.",
    )


class _Restore:
    """The restore of one container; a repeated run continues an interrupted one."""

    def __init__(self, session: Session, client: Client, container: Container) -> None:
        self._session, self._client, self._container = session, client, container

    def run(self, volid: str | None, storage: str | None) -> Outcome:
        name, known_hosts = self._container.name, self._session.known_hosts
        there, maker = self._find()
        task = self._earlier(there, maker) if there else None
        node = there.node if there else self._container.node or only_node(self._client)
        backup = self._backup(node, volid, storage)
        if there and task and restores.source(self._client, task) != backup.volid:
            raise _exists(self._container, there)
        if there and task and there.running and name in known_hosts.pins():
            if has_hooks(self._container, "restored"):  # which an interrupted run may not have reached
                finish_restore(self._session, self._container, backup.volid)
            return Outcome(
                nothing=f"Nothing to do: {name} was restored {time_since(task.started)} from {backup.volid}."
            )
        if task is None:
            vmids.promise(self._session.inventory)
            task = self._begin(node, backup)
        self._pin(node, backup)
        self._start(node, there, task)
        with self._session.progress.step(name, "wait for SSH with the host key of the backup"):
            finish_restore(self._session, self._container, backup.volid)
        done = f"{name}: restored to its state of {time_since(backup.made)}, from {backup.volid}. "
        return Outcome({name: [f"{done}`homelab plan` shows its differences from the inventory."]})

    def _find(self) -> tuple[ObservedGuest | None, Task | None]:
        """Return the existing guest, and this lab's restore that has made it or is making it."""
        vmid = self._container.vmid
        there = find_guests(self._client, self._session.inventory).get(vmid)
        task = restores.maker(self._client, there.node, there.vmid) if there else None
        if there and there.lock == "create" and task and not task.running:
            # The task may have ended between the two reads.
            there = find_guests(self._client, self._session.inventory).get(vmid)
        return there, task

    def _earlier(self, there: ObservedGuest, task: Task | None) -> Task:
        """Return the restore that made the existing guest, after its end. Raises HomelabError if there is none."""
        if task is None or (there.lock == "create" and not task.running):
            raise _exists(self._container, there)
        if task.running:
            name = self._container.name
            with self._session.progress.step(name, "wait for its restore, which is still running") as update:
                tasks.wait(self._client, task, f"restore {name}", _EARLIER, update)
        elif not there.belongs_to(self._container):
            raise _exists(self._container, there)
        return task

    def _backup(self, node: str, volid: str | None, storage: str | None) -> Backup:
        container = self._container
        wanted = volid.partition(":")[0] if volid else storage or container.backup_storage
        place = backups.storage_for(self._client, node, wanted)
        lab = self._session.inventory.lab
        found = backups.backups(self._client, node, place, {container.vmid: container.name}, lab)
        return _choose(found, volid, container, place, node)

    def _begin(self, node: str, backup: Backup) -> Task:
        config = restores.config_of(self._client, node, backup.volid)
        restores.require_its_own(self._container, backup.volid, config)
        for line in restores.left_out(config):
            self._session.progress.note(self._container.name, line)
        return restores.restore(self._client, self._container, node, backup.volid, config, self._session.progress)

    def _pin(self, node: str, backup: Backup) -> None:
        """Pin the host key that the backup's notes name; without one, keep the pin or read Proxmox's log."""
        container, known_hosts = self._container, self._session.known_hosts
        pinned = known_hosts.pins().get(container.name)
        key = backup.host_key or (pinned and pinned.fingerprint)
        if not key:
            guest = ObservedGuest(vmid=container.vmid, name=container.name, node=node)
            key = hostkeys.recover(self._client, guest, container.name)
        if pinned is None or pinned.fingerprint != key:
            known_hosts.pin(container.name, Pin(key))

    def _start(self, node: str, there: ObservedGuest | None, task: Task) -> None:
        """Wait for the start that follows a restore; start the container if its restore ended in an earlier run."""
        executor = PlanExecutor(self._client, "", self._session.known_hosts, self._session.progress)
        if there and not task.running and not there.running:
            executor.execute([Start(self._container, there)])
            return
        with self._session.progress.step(self._container.name, "start"):
            executor.await_start(self._container, node, task.started)


def _exists(container: Container, there: ObservedGuest) -> HomelabError:
    if there.lock != "create" and not there.belongs_to(container):
        kind = "container" if there.kind == "lxc" else "virtual machine"
        return HomelabError(
            f"Cannot use vmid {there.vmid} for {container.name}: it belongs to a {kind} that is not ours",
            f"`{there.name}` on node {there.node} does not have the tags {', '.join(sorted(container.lab_tags))}. "
            "It was not changed.",
            "Write another vmid in the inventory: the backup can be restored to that.",
        )
    if there.lock == "create":
        return HomelabError(
            f"Cannot restore {container.name}: {there.vmid} is incomplete",
            "It is being created, or a create or restore of it was interrupted.",
            f"Check for a task on it. If there is none, on node {there.node}: `pct unlock {there.vmid}`, then "
            f"`pct destroy {there.vmid}`; then run the same command again.",
        )
    return HomelabError(
        f"Cannot restore {container.name}: it exists",
        f"It is {there.vmid} on node {there.node}, and {there.status}. A restore never replaces a container.",
        f"If its data may be lost: `homelab destroy --limit {container.name}`, then run the same command again. "
        "`homelab snapshot rollback` goes back without that, if there is a snapshot.",
    )


def _choose(found: Sequence[Backup], volid: str | None, container: Container, storage: str, node: str) -> Backup:
    """Return the named backup, or the newest. Raises HomelabError if there is none, InputError for an unknown one."""
    if volid is None and found:
        return found[-1]
    for each in found:
        if each.volid == volid:
            return each
    if volid and found:
        raise InputError(
            f"Cannot restore {container.name}: storage {storage} has no backup {volid}",
            f"It has {', '.join(each.volid for each in found)}.",
            "Name one of these, or none for the newest.",
        )
    raise HomelabError(
        f"Cannot restore {container.name}: storage {storage} has no backup of it",
        f"Node {node} lists none of vmid {container.vmid} to this token. To see them it needs VM.Backup on "
        f"/vms/{container.vmid} and Datastore.AllocateSpace on /storage/{storage}.",
        "Name another storage with `--storage`. Or create the container without its data: `homelab up`.",
    )
