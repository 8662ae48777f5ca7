"""`homelab plan`: preview `up` and, for running containers, `deploy`; change nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from homelab.model import Inventory
from homelab.plan import ObservedGuest, Refusal, plan_up, select_containers
from homelab.proxmox import Client, firewall_api, vmids
from homelab.runtime.container_changes import plan_when_idle
from homelab.runtime.convergence import HostReport, converge_containers
from homelab.runtime.lockout import lockout_notes
from homelab.runtime.plan_lines import PlanLine, plan_lines
from homelab.runtime.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The changes that `up` and `deploy` would make.

    `not_inspected` gives the reason by container; `notes` need attention, but cause no change. With `refused` changes,
    `up` makes none at all.
    """

    up: Sequence[PlanLine] = ()
    deploy: Sequence[PlanLine] = ()
    not_inspected: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    refused: Sequence[Refusal] = ()

    def __bool__(self) -> bool:
        return bool(self.up or self.deploy)


def preview(session: Session, *, limit: Sequence[str] = ()) -> Preview:
    """Compare Proxmox and the running containers with the inventory. Raises HomelabError."""
    client = Client(session.inventory.endpoint)
    session = session.on(vmids.resolve_vmids(client, session.inventory, take=True))
    inventory = session.inventory
    found, plan, _ = plan_when_idle(session, client, lambda there: plan_up(inventory, there, limit))
    containers = select_containers(inventory, limit)
    not_inspected = dict(_not_running(inventory, found, limit))
    reports = converge_containers(session, [c for c in containers if c.name not in not_inspected], dry_run=True)
    not_inspected |= {
        report.container: f"{report.failure.brief}: {report.failure.details}" for report in reports if report.failure
    }
    notes = (*plan.notes, *firewall_api.notes(client, containers), *lockout_notes(inventory, containers))
    return Preview(
        up=list(plan_lines(plan)),
        deploy=[line for report in reports for line in _changes_inside(report)],
        not_inspected=not_inspected,
        notes=[str(note) for note in notes],
        refused=plan.refusals,
    )


def _not_running(
    inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str]
) -> Iterator[tuple[str, str]]:
    for container in select_containers(inventory, limit):
        there = found.get(container.vmid)
        if there is None:
            yield container.name, "does not exist yet: `homelab deploy` would set up everything in it"
        elif not there.running:
            yield container.name, f"is {there.status}"


def _changes_inside(report: HostReport) -> Iterator[PlanLine]:
    for change in report.changes:
        yield PlanLine(
            report.container,
            f"{report.container}: {change}",
            change.pending.effect,
            change.pending.diff,
            change.pending.kept,
        )
