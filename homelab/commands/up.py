"""`homelab up`: the containers exist, match the inventory, and run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Container, Inventory, Secret, SecretStore
from homelab.plan import Clone, Create, ObservedGuest, Plan, RegenerateIdentity, Start, plan_up, select_containers
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, downloads, firewall_api, hostkeys, vmids
from homelab.runtime.container_changes import Outcome, audited_client, plan_when_idle, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.lockout import lockout_notes

if TYPE_CHECKING:
    from homelab.runtime.clone import Cloner
    from homelab.runtime.clone_identity import Reach

SSH_DEADLINE = 120.0  # seconds that a container has to boot and answer


def up(
    inventory: Inventory,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Callable[[Plan], bool],
    limit: Sequence[str] = (),
    wait_for_ssh: Callable[[Container], None] | None = None,
    reach: Reach | None = None,
) -> Outcome:
    """Find, compare, ask, act, and wait until the new containers answer over SSH. Raises HomelabError.

    `confirm` is given the plan and says whether to go on; it is not asked when there is nothing to do.
    """
    select_containers(inventory, limit)
    with lab_lock(inventory.state_dir, "up"):
        client = audited_client(inventory)
        return _up(
            client,
            vmids.resolve_vmids(client, inventory, take=True),
            limit,
            secret_store,
            known_hosts,
            progress,
            confirm,
            wait_for_ssh,
            reach,
        )


def _up(
    client: Client,
    inventory: Inventory,
    limit: Sequence[str],
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Callable[[Plan], bool],
    wait_for_ssh: Callable[[Container], None] | None,
    reach: Reach | None,
) -> Outcome:
    containers = select_containers(inventory, limit)
    found, plan, waited = plan_when_idle(client, inventory, progress, lambda there: plan_up(inventory, there, limit))
    plan.refuse_unsafe()
    if plan and not confirm(plan):
        return Outcome(confirmed=False)
    vmids.promise(inventory)
    for note in (*plan.notes, *firewall_api.notes(client, containers), *lockout_notes(inventory, containers)):
        progress.note(note.container, note.text)
    private, public = secret_store.key_pair("operator")
    builder = PlanExecutor(client, public, known_hosts, progress)
    wait = wait_for_ssh or partial(_wait_for_ssh, private, known_hosts)
    work = plan.by_container()
    turns = threading.Semaphore(inventory.endpoint.max_parallel)

    cloned = {action.container.name for action in plan.actions if isinstance(action, Clone | RegenerateIdentity)}
    from_golden = _from_golden(client, inventory, builder, known_hosts, progress, reach, private) if cloned else None

    def make(container: Container) -> None:
        actions = work.get(container.name, ())
        if from_golden and container.name in cloned:
            with turns:
                from_golden.execute(actions)
            return
        if not any(isinstance(action, Create) for action in actions):
            _pin(client, known_hosts, found[container.vmid], container.name)
        if actions:
            with turns:
                builder.execute(actions)
        if container.name in waited or any(isinstance(action, Create | Start) for action in actions):
            with progress.step(container.name, "wait for SSH, with the host key that Proxmox has named"):
                wait(container)

    run_on_containers(
        client,
        {
            f"{missing.file_name} for {missing.node}": partial(downloads.download, client, missing, progress)
            for missing in downloads.missing(plan)
        },
        "downloads",
    )
    run_on_containers(client, {container.name: partial(make, container) for container in containers})
    return Outcome.of(plan) if plan else Outcome(nothing=_nothing(containers))


def _nothing(containers: Sequence[Container]) -> str:
    if len(containers) == 1:
        return f"Nothing to do: {containers[0].name} matches the inventory and runs."
    return f"Nothing to do: {len(containers)} containers match the inventory and run."


def _from_golden(
    client: Client,
    inventory: Inventory,
    builder: PlanExecutor,
    known_hosts: KnownHosts,
    progress: Progress,
    reach: Reach | None,
    private_key: Secret,
) -> Cloner:
    from homelab.runtime.clone import Cloner
    from homelab.runtime.clone_identity import reach_over_ssh

    return Cloner(client, inventory, builder, known_hosts, progress, reach or reach_over_ssh(private_key))


def _pin(client: Client, known_hosts: KnownHosts, found: ObservedGuest, name: str) -> None:
    """Pin a container's host key from the log of its creation, if an earlier run was killed before it could."""
    if name not in known_hosts.pins():
        known_hosts.pin(name, Pin(hostkeys.recover(client, found, name)))


def _wait_for_ssh(private_key: Secret, known_hosts: KnownHosts, container: Container) -> None:
    from homelab.ssh import Ssh

    with Ssh(container.name, str(container.address), private_key, known_hosts) as host:
        host.connect(SSH_DEADLINE)
