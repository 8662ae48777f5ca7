"""Create, update and start containers by a plan."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from homelab.known_hosts import Pin
from homelab.model import Container
from homelab.plan import (
    Action,
    Clone,
    Create,
    ObservedGuest,
    Plan,
    RegenerateIdentity,
    Start,
    UpdateFirewall,
    plan_up,
    select_containers,
)
from homelab.proxmox import Client, PlanExecutor, downloads, find_guests, firewall_api, hostkeys, vmids
from homelab.runtime.connections import BOOT_DEADLINE
from homelab.runtime.container_changes import Outcome, plan_when_idle, run_on_containers
from homelab.runtime.lockout import lockout_notes
from homelab.runtime.session import Session


def provision(session: Session, client: Client, confirm: Callable[[Plan], bool], limit: Sequence[str] = ()) -> Outcome:
    """Plan, ask, execute, and wait until new containers answer over SSH. The lab's lock is held by the caller.

    `confirm` decides on a plan that is not empty. Raises HomelabError.
    """
    session = session.on(vmids.resolve_vmids(client, session.inventory, take=True))
    inventory, progress = session.inventory, session.progress
    containers = select_containers(inventory, limit)
    found, plan, waited = plan_when_idle(session, client, lambda there: plan_up(inventory, there, limit))
    plan.refuse_unsafe()
    if plan and not confirm(plan):
        return Outcome(confirmed=False)
    vmids.promise(inventory)
    for note in (*plan.notes, *firewall_api.notes(client, containers), *lockout_notes(inventory, containers)):
        progress.note(note.container, note.text)
    run_on_containers(
        client,
        {
            f"{missing.file_name} for {missing.node}": partial(downloads.download, client, missing, progress)
            for missing in downloads.missing(plan)
        },
        "downloads",
    )
    work = _Provisioning(session, client, plan, waited)
    run_on_containers(client, {each.name: partial(work.provision, each, found.get(each.vmid)) for each in containers})
    if plan:
        return Outcome.of(replace(plan, actions=(*plan.actions, *_firewalls_of_leases(session, client, limit))))
    return Outcome(nothing=_nothing(containers))


def _firewalls_of_leases(session: Session, client: Client, limit: Sequence[str]) -> Sequence[Action]:
    """Update the firewalls with the addresses that DHCP has given since the plan; return what was done."""
    containers = session.inventory.containers
    if not any(c.shape.firewall for c in containers) or not any(c.shape.dynamic_addresses for c in containers):
        return ()
    plan = plan_up(session.inventory, find_guests(client, session.inventory), limit)
    firewalls = Plan(tuple(action for action in plan.actions if isinstance(action, UpdateFirewall)))
    executor = PlanExecutor(client, "", session.known_hosts, session.progress)
    work = firewalls.by_container()
    run_on_containers(client, {name: partial(executor.execute, actions) for name, actions in work.items()})
    return firewalls.actions


def await_ssh(session: Session, container: Container) -> None:
    """Wait until a container answers over SSH with the pinned host key. Raises HomelabError."""
    with session.connect(container, BOOT_DEADLINE):
        pass


class _Provisioning:
    """One plan in execution; `provision` may run in parallel for different containers."""

    def __init__(self, session: Session, client: Client, plan: Plan, waited: Sequence[str]) -> None:
        self._session, self._client, self._waited = session, client, waited
        self._work = plan.by_container()
        self._slots = threading.Semaphore(session.inventory.endpoint.max_parallel)
        _, public_key = session.secrets.key_pair("operator")
        self._executor = PlanExecutor(client, public_key, session.known_hosts, session.progress)
        self._cloned = {each.container.name for each in plan.actions if isinstance(each, Clone | RegenerateIdentity)}
        if self._cloned:
            from homelab.runtime.clone import Cloner

            self._cloner = Cloner(session, client, self._executor)

    def provision(self, container: Container, found: ObservedGuest | None) -> None:
        """Execute a container's actions; pin its host key; wait for SSH if it was started. Raises HomelabError."""
        actions = self._work.get(container.name, ())
        if container.name in self._cloned:
            with self._slots:
                self._cloner.execute(actions)
            return
        if found and not any(isinstance(action, Create) for action in actions):
            self._pin(container.name, found)
        if actions:
            with self._slots:
                self._executor.execute(actions)
        if container.name in self._waited or any(isinstance(action, Create | Start) for action in actions):
            with self._session.progress.step(container.name, "wait for SSH with the host key from Proxmox's log"):
                await_ssh(self._session, container)

    def _pin(self, name: str, found: ObservedGuest) -> None:
        known_hosts = self._session.known_hosts
        pins = known_hosts.pins()
        if name in pins:
            return
        if found.name in pins and found.name not in [each.name for each in self._session.inventory.containers]:
            known_hosts.pin(name, pins[found.name])  # the container was renamed in the inventory
            known_hosts.forget(found.name)
        else:
            # An earlier run may have been killed before it pinned the key.
            known_hosts.pin(name, Pin(hostkeys.recover(self._client, found, name)))


def _nothing(containers: Sequence[Container]) -> str:
    if len(containers) == 1:
        return f"Nothing to do: {containers[0].name} matches the inventory and runs."
    return f"Nothing to do: {len(containers)} containers match the inventory and run."
