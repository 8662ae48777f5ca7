"""`homelab plan`: what `up` would do to the containers, and `deploy` inside those that run. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from homelab.commands.deploy import HostReport, deploy
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory, SecretStore
from homelab.plan import (
    NEEDS_RESTART,
    Action,
    Destroy,
    ObservedGuest,
    Plan,
    Start,
    Stop,
    Update,
    UpdateFirewall,
    plan_up,
    select_containers,
)
from homelab.progress import Progress
from homelab.proxmox import Client, firewall_api, vmids
from homelab.runtime.container_changes import plan_when_idle
from homelab.runtime.lockout import lockout_notes

Effect = Literal["live", "pending until restart", "restarts the container", "gone for good"]


@dataclass(frozen=True, slots=True)
class Line:
    """One change, and when it takes effect; `diff` is a unified diff where a file differs."""

    container: str
    what: str
    effect: Effect
    diff: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `up` and `deploy` would do. `unseen`: why a container could not be looked into, by name.

    `notes` say what a person should know, though nothing is done about it.
    """

    up: Sequence[Line] = ()
    deploy: Sequence[Line] = ()
    unseen: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.up or self.deploy)


def preview(
    inventory: Inventory,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    limit: Sequence[str] = (),
) -> Preview:
    """Find, compare, and look into what runs. Raises HomelabError, naming what cannot be done safely."""
    client = Client(inventory.endpoint)
    inventory = vmids.resolve_vmids(client, inventory, take=True)
    found, plan, _ = plan_when_idle(client, inventory, progress, lambda there: plan_up(inventory, there, limit))
    plan.refuse_unsafe()
    containers = select_containers(inventory, limit)
    unseen = dict(_closed(inventory, found, limit))
    open_ones = [container.name for container in containers if container.name not in unseen]
    # An empty limit would mean all of them.
    reports = (
        deploy(
            inventory,
            secret_store=secret_store,
            known_hosts=known_hosts,
            progress=progress,
            limit=open_ones,
            dry_run=True,
        )
        if open_ones
        else ()
    )
    unseen |= {
        report.container: f"{report.failure.brief}: {report.failure.details}" for report in reports if report.failure
    }
    return Preview(
        up=list(lines(plan)),
        deploy=[line for report in reports for line in _inside(report)],
        unseen=unseen,
        notes=[
            str(note)
            for note in (*plan.notes, *firewall_api.notes(client, containers), *lockout_notes(inventory, containers))
        ],
    )


def _closed(
    inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None:
            yield container.name, "it does not exist yet: `homelab deploy` would set up everything in it"
        elif not there.running:
            yield container.name, f"it is {there.status}"


def _inside(report: HostReport) -> Iterator[Line]:
    for change in report.changes:
        yield Line(report.container, f"{report.container}: {change}", "live", change.pending.diff)


def lines(plan: Plan) -> Iterator[Line]:
    """A plan line by line: an update has one for each field."""
    for name, actions in plan.by_container().items():
        restarts = any(isinstance(action, Stop) for action in actions)
        for action in actions:
            for what, effect in _effects(action, restarts):
                yield Line(name, what, effect)


def _effects(action: Action, restarts: bool) -> Iterator[tuple[str, Effect]]:
    match action:
        case Update(container, found, changes):
            for change in changes:
                waits = found.running and change.field in NEEDS_RESTART
                yield f"update {container.name}: {change}", "pending until restart" if waits else "live"
        case UpdateFirewall(container):
            for each in action.changes:
                yield f"firewall of {container.name}: {each}", "live"
        case Destroy():
            yield str(action), "gone for good"
        case Stop() | Start() if restarts:
            yield str(action), "restarts the container"
        case _:
            yield str(action), "live"
