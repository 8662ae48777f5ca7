"""`homelab destroy`: the containers that are ours are gone, and nothing else is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from homelab.known_hosts import KnownHosts
from homelab.model import Inventory
from homelab.plan import Action, Plan, plan_destroy, select_containers
from homelab.progress import Progress
from homelab.proxmox import PlanExecutor, vmids
from homelab.runtime.container_changes import Outcome, audited_client, plan_when_idle, run_on_containers
from homelab.runtime.lab_lock import lab_lock


def destroy(
    inventory: Inventory,
    *,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Callable[[Plan], bool],
    limit: Sequence[str] = (),
) -> Outcome:
    """Remove what carries this lab's tags on the inventory's vmids, running or not, with its disk and its pin.

    `confirm` is given the plan and says whether to go on; it is not asked when there is nothing to do. A guest on
    one of the vmids that is not ours is left alone. Raises HomelabError.
    """
    with lab_lock(inventory.state_dir, "destroy"):
        return _destroy(inventory, known_hosts, progress, confirm, limit)


def _destroy(
    inventory: Inventory,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Callable[[Plan], bool],
    limit: Sequence[str],
) -> Outcome:
    client = audited_client(inventory)
    inventory = vmids.resolve_vmids(client, inventory)
    found, plan, _ = plan_when_idle(client, inventory, progress, lambda there: plan_destroy(inventory, there, limit))
    plan.refuse_unsafe()
    if plan and not confirm(plan):
        return Outcome(confirmed=False)
    builder = PlanExecutor(client, "", known_hosts, progress)
    turns = threading.Semaphore(inventory.endpoint.max_parallel)
    run_on_containers(
        client,
        {
            name: partial(_work, inventory, builder, turns, known_hosts, actions)
            for name, actions in plan.by_container().items()
        },
    )
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None:
            _forget(inventory, known_hosts, container.name)
        elif not there.belongs_to(container):
            progress.note(container.name, f"{there.vmid} is `{there.name}`, which is not ours: left alone")
    for there in found.values():
        if there.sealed and not limit:
            progress.note(there.name, f"golden container {there.vmid} stays: `homelab bake --delete` removes it")
    return Outcome.of(plan) if plan else Outcome(nothing="Nothing to do: none of our containers is there.")


def _work(
    inventory: Inventory,
    builder: PlanExecutor,
    turns: threading.Semaphore,
    known_hosts: KnownHosts,
    actions: Sequence[Action],
) -> None:
    with turns:
        builder.execute(actions)
    _forget(inventory, known_hosts, actions[0].container.name)


def _forget(inventory: Inventory, known_hosts: KnownHosts, name: str) -> None:
    vmids.forget(inventory, name)
    if name in known_hosts.pins():
        known_hosts.forget(name)
