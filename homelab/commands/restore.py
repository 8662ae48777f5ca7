"""`homelab restore`: a container that is not there any more is made anew from its backup."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from homelab.commands.up import SSH_DEADLINE
from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Container, Inventory, SecretStore
from homelab.plan import ObservedGuest, Start, select_containers
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, backups, find_guests, hostkeys, restores, tasks, vmids
from homelab.proxmox.backups import Backup
from homelab.proxmox.plan_executor import only_node
from homelab.proxmox.tasks import Task
from homelab.runtime.container_changes import Outcome, audited_client
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import time_since

_EARLIER = 6 * 3600.0  # seconds to wait for a restore that an earlier run has begun


def restore(
    inventory: Inventory,
    name: str,
    volid: str | None = None,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    storage: str | None = None,
    wait_for_ssh: Callable[[Container], None] | None = None,
) -> Outcome:
    """Make a container anew from a backup, the newest unless one is named, and start it. Raises HomelabError.

    Never over one that is there. It comes back with its SSH host keys, so its pin is what it was.
    """
    select_containers(inventory, [name])
    with lab_lock(inventory.state_dir, "restore"):
        client = audited_client(inventory)
        inventory = vmids.resolve_vmids(client, inventory, take=True)
        container = select_containers(inventory, [name])[0]
        there, maker = _look(client, inventory, container)
        task = _earlier(client, container, there, maker, progress) if there else None
        node = there.node if there else container.node or only_node(client)
        backup = _backup(client, inventory, container, node, volid, storage)
        if there and task and restores.source(client, task) != backup.volid:
            raise _is_there(container, there)
        if there and task and there.running and name in known_hosts.pins():
            return Outcome(
                nothing=f"Nothing to do: {name} was restored {time_since(task.started)} from {backup.volid}."
            )
        if task is None:
            vmids.promise(inventory)
            task = _restore(client, container, node, backup, progress)
        _pin(
            known_hosts,
            name,
            backup,
            lambda: hostkeys.recover(client, ObservedGuest(vmid=container.vmid, name=name, node=node), name),
        )
        _start(PlanExecutor(client, "", known_hosts, progress), container, node, there, task, progress)
        with progress.step(name, "wait for SSH, with the host key that it had"):
            (wait_for_ssh or _ssh(secret_store, known_hosts))(container)
    return Outcome(
        {
            name: [
                f"{name}: it is as it was {time_since(backup.made)}, from {backup.volid}. "
                "`homelab plan` shows what the inventory wants otherwise by now."
            ]
        }
    )


def _backup(
    client: Client, inventory: Inventory, container: Container, node: str, volid: str | None, storage: str | None
) -> Backup:
    wanted = volid.partition(":")[0] if volid else storage or container.backup_storage
    place = backups.storage_for(client, node, wanted)
    theirs = backups.backups(client, node, place, {container.vmid: container.name}, inventory.lab)
    return _choice(theirs, volid, container, place, node)


def _start(
    builder: PlanExecutor, container: Container, node: str, there: ObservedGuest | None, task: Task, progress: Progress
) -> None:
    """Judge the start that follows a restore; start it if that has ended long ago."""
    if there and not task.running and not there.running:
        builder.execute([Start(container, there)])
        return
    with progress.step(container.name, "start"):
        builder.await_start(container, node, task.started)


def _look(client: Client, inventory: Inventory, container: Container) -> tuple[ObservedGuest | None, Task | None]:
    """What is there, and the restore of ours that has made it or is making it."""
    there = find_guests(client, inventory).get(container.vmid)
    task = restores.maker(client, there.node, there.vmid) if there else None
    if there and there.lock == "create" and task and not task.running:
        there = find_guests(client, inventory).get(container.vmid)  # its end may have come between the two looks
    return there, task


def _earlier(client: Client, container: Container, there: ObservedGuest, task: Task | None, progress: Progress) -> Task:
    """The restore that has made the container that is there, when it has ended. Raises HomelabError if none has."""
    if task is None or (there.lock == "create" and not task.running):
        raise _is_there(container, there)
    if task.running:
        with progress.step(container.name, "wait for its restore, which still runs") as update:
            tasks.wait(client, task, f"{container.name}: restoring it", _EARLIER, update)
    elif not there.belongs_to(container):
        raise _is_there(container, there)
    return task


def _restore(client: Client, container: Container, node: str, backup: Backup, progress: Progress) -> Task:
    config = restores.config_of(client, node, backup.volid)
    restores.require_its_own(container, backup.volid, config)
    for line in restores.left_out(config):
        progress.note(container.name, line)
    return restores.restore(client, container, node, backup.volid, config, progress)


def _is_there(container: Container, there: ObservedGuest) -> HomelabError:
    if there.lock != "create" and not there.belongs_to(container):
        return HomelabError(
            f"{there.vmid} is not ours",
            f"It is `{there.name}` on node {there.node}; it was not touched.",
            "Write another vmid in the inventory: the backup can be restored to that.",
        )
    if there.lock == "create":
        return HomelabError(
            f"{container.name} is half made",
            "It is being made, or a create or restore of it was cut off.",
            f"See whether a task runs on it. If none does, on node {there.node}: `pct unlock {there.vmid}`, then "
            f"`pct destroy {there.vmid}`; then run the same command again.",
        )
    return HomelabError(
        f"{container.name} is there: a restore never goes over it",
        f"It is {there.vmid} on node {there.node}, and {there.status}.",
        f"If it may be lost: `homelab destroy --limit {container.name}`, then run the same command "
        "again. `homelab snapshot rollback` goes back without that, where there is a snapshot.",
    )


def _choice(theirs: Sequence[Backup], volid: str | None, container: Container, storage: str, node: str) -> Backup:
    """The backup that is named, or the newest. Raises HomelabError if there is none, InputError for an unknown one."""
    if volid is None and theirs:
        return theirs[-1]
    for each in theirs:
        if each.volid == volid:
            return each
    names = ", ".join(each.volid for each in theirs)
    if volid and theirs:
        raise InputError(
            f"{container.name} has no backup {volid}",
            f"Storage {storage} has {names}.",
            "Name one of these, or none for the newest.",
        )
    raise HomelabError(
        f"There is no backup of {container.name} on storage {storage}",
        f"Node {node} lists none of vmid {container.vmid} that this token may see. To see them it needs VM.Backup on "
        f"/vms/{container.vmid} and Datastore.AllocateSpace on /storage/{storage}.",
        "Name another storage: --storage. Or make the container anew: `homelab up`.",
    )


def _pin(known_hosts: KnownHosts, name: str, backup: Backup, recover: Callable[[], str]) -> None:
    """Trust the host key that it had when the backup was made: its notes say so, or else what we know already."""
    pinned = known_hosts.pins().get(name)
    key = backup.host_key or (pinned.fingerprint if pinned else recover())
    if pinned is None or pinned.fingerprint != key:
        known_hosts.pin(name, Pin(key))


def _ssh(secret_store: SecretStore, known_hosts: KnownHosts) -> Callable[[Container], None]:
    def wait(container: Container) -> None:
        from homelab.ssh import Ssh

        private, _ = secret_store.key_pair("operator")
        with Ssh(container.name, str(container.address), private, known_hosts) as host:
            host.connect(SSH_DEADLINE)

    return wait
