"""`homelab destroy`: remove the lab's own containers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from homelab.plan import Action, Plan, orphan_notes, plan_destroy, plan_orphans, select_containers
from homelab.proxmox import Client, PlanExecutor, vmids
from homelab.proxmox.inspect import with_config
from homelab.runtime.container_changes import Outcome, audited_client, plan_when_idle, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.session import Session


def destroy(
    session: Session, *, confirm: Callable[[Plan], bool], limit: Sequence[str] = (), orphans: bool = False
) -> Outcome:
    """Remove the containers on the inventory's vmids that carry this lab's tags, with disk and host key pin.

    With `orphans`, remove those with this lab's tags that are missing in the inventory instead. `confirm` decides on a
    plan that is not empty. A guest on one of the vmids without the tags is left alone. Raises HomelabError.
    """
    with lab_lock(session.inventory.state_dir, "destroy"):
        client = audited_client(session.inventory)
        session = session.on(vmids.resolve_vmids(client, session.inventory))
        return (_destroy_orphans if orphans else _destroy)(session, client, confirm, limit)


def _destroy_orphans(
    session: Session, client: Client, confirm: Callable[[Plan], bool], limit: Sequence[str]
) -> Outcome:
    inventory, read = session.inventory, partial(with_config, client)
    _, plan, _ = plan_when_idle(session, client, lambda there: plan_orphans(inventory, there, limit, read))
    plan.refuse_unsafe()
    if plan and not confirm(plan):
        return Outcome(confirmed=False)
    _remove(session, client, plan)
    return Outcome.of(plan) if plan else Outcome(nothing="Nothing to do: the inventory has all containers of the lab.")


def _destroy(session: Session, client: Client, confirm: Callable[[Plan], bool], limit: Sequence[str]) -> Outcome:
    inventory, progress = session.inventory, session.progress
    found, plan, _ = plan_when_idle(session, client, lambda there: plan_destroy(inventory, there, limit))
    plan.refuse_unsafe()
    if plan and not confirm(plan):
        return Outcome(confirmed=False)
    _remove(session, client, plan)
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None:
            _forget(session, container.name)
        elif not there.belongs_to(container):
            progress.note(container.name, f"left alone: {there.vmid} is `{there.name}`, without this lab's tags")
    for there in found.values():
        if there.sealed and not limit:
            progress.note(there.name, f"golden container {there.vmid} stays; `homelab golden delete` removes it")
    for note in () if limit else orphan_notes(inventory, found):
        progress.note(note.container, note.text)
    return Outcome.of(plan) if plan else Outcome(nothing="Nothing to do: none of the lab's containers exists.")


def _remove(session: Session, client: Client, plan: Plan) -> None:
    """Carry out the plan, several containers at a time."""
    inventory, progress = session.inventory, session.progress
    executor = PlanExecutor(client, "", session.known_hosts, progress)
    slots = threading.Semaphore(inventory.endpoint.max_parallel)

    def remove(name: str, actions: Sequence[Action]) -> None:
        with slots:
            executor.execute(actions)
        # An orphan may have the name of a container that is in the inventory with another vmid.
        vmid = next((c.vmid for c in inventory.containers if c.name == name), None)
        if vmid in (None, *(action.container.vmid for action in actions)):
            _forget(session, name)

    run_on_containers(client, {name: partial(remove, name, actions) for name, actions in plan.by_container().items()})


def _forget(session: Session, name: str) -> None:
    vmids.forget(session.inventory, name)
    if name in session.known_hosts.pins():
        session.known_hosts.forget(name)
