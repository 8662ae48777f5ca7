"""The state of a whole lab: containers, units and services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from itertools import zip_longest
from typing import TYPE_CHECKING

from homelab.errors import HomelabError
from homelab.host import Result, argv
from homelab.model import DHCP, Container, Health, Inventory, Service
from homelab.model.web_uis import web_uis
from homelab.plan import Note
from homelab.runtime.concurrency import run_all, start
from homelab.runtime.full_disks import PROBE, full_disks
from homelab.runtime.pipeline_reports import PipelineReport, report_pipelines
from homelab.runtime.session import Session
from homelab.services.lab_certificates import certificate_probe, with_certificate
from homelab.steps.queries import merge_queries

if TYPE_CHECKING:
    from homelab.runtime.container_states import ContainerState

_CONNECT_DEADLINE = 3.0  # seconds


@dataclass(frozen=True)
class ServiceReport:
    """A service: its units' states in systemd's words, and its health."""

    name: str
    units: Mapping[str, str]
    health: Health
    web_uis: Mapping[str, str] = field(default_factory=dict)  # URL by title

    @property
    def healthy(self) -> bool:
        """True if the service is healthy and all its units are active."""
        return self.health.healthy and all(state == "active" for state in self.units.values())


@dataclass(frozen=True)
class ContainerReport:
    """A container's state on Proxmox, and its services; `unreachable` gives the reason if they cannot be queried."""

    name: str
    proxmox: ContainerState
    services: Sequence[ServiceReport] = ()
    unreachable: str = ""
    full_disks: Sequence[str] = ()  # file systems with their use, such as `/ 100%`

    @property
    def healthy(self) -> bool:
        """True if the container runs as in the inventory and all its services are healthy."""
        return (
            self.proxmox.running
            and not self.proxmox.drift
            and not self.unreachable
            and not self.full_disks
            and all(service.healthy for service in self.services)
        )


@dataclass(frozen=True)
class LabReport:
    """All containers and pipelines of a lab, and notes on guests with its tags that are missing in the inventory."""

    lab: str
    containers: Sequence[ContainerReport]
    notes: Sequence[Note] = ()
    pipelines: Sequence[PipelineReport] = ()  # the user's
    healthy: bool = field(init=False)

    def __post_init__(self) -> None:
        parts = [*(each.healthy for each in self.containers), *(each.health.healthy for each in self.pipelines)]
        object.__setattr__(self, "healthy", all(parts))


def report_lab(session: Session) -> LabReport:
    """Ask Proxmox, then all containers in parallel; a container that is down does not hide the others."""
    from homelab.runtime.container_states import container_states

    found, notes = container_states(session.inventory)
    states = {state.name: state for state in found}
    session = session.on(_located(session.inventory, states))
    pipelines = start("pipelines", partial(report_pipelines, session))
    reports = run_all({c.name: partial(_report, session, c, states[c.name]) for c in session.inventory.containers})
    containers = [report.result() for report in reports.values()]
    return LabReport(session.inventory.lab, containers, notes, pipelines.result())


def _located(inventory: Inventory, states: Mapping[str, ContainerState]) -> Inventory:
    """Return the inventory with the addresses by DHCP that the states show, so that nothing reads them again."""
    addresses = {name: state.address for name, state in states.items() if state.address != DHCP}
    leased = [
        replace(each, lease=IPv4Address(addresses[each.name])) if each.uses_dhcp and each.name in addresses else each
        for each in inventory.containers
    ]
    return replace(inventory, containers=tuple(leased))


def _report(session: Session, container: Container, state: ContainerState) -> ContainerReport:
    if not state.running:
        return ContainerReport(container.name, state, _unavailable(container, _not_running(state)))
    try:
        with session.connect(container, _CONNECT_DEADLINE) as host:
            probes = [
                [_units_probe(service.units()), _certificate_probe(name, service), *service.health_probes()]
                for name, service in container.services.items()
            ]
            commands, split_results = merge_queries([PROBE, *(probe for group in probes for probe in group)])
            disks, *rest = split_results(host.batch(commands))
            answers = iter(rest)
    except HomelabError as error:
        services = _unavailable(container, "its container does not answer over SSH")
        return ContainerReport(container.name, state, services, unreachable=f"{error.brief}: {error.details}")
    grouped = [[next(answers) for _ in group] for group in probes]
    services = [
        ServiceReport(
            name,
            _unit_states(service.units(), units),
            with_certificate(service.assess(results), certificate, datetime.now(UTC)),
            _web_uis(session.inventory, container, name),
        )
        for (name, service), (units, certificate, *results) in zip(container.services.items(), grouped, strict=True)
    ]
    return ContainerReport(container.name, state, services, full_disks=full_disks(disks))


def _not_running(state: ContainerState) -> str:
    if not state.exists:
        return "its container does not exist: run `homelab up`, then `homelab deploy`"
    if state.foreign:
        return f"the guest with its vmid {state.vmid} is not this lab's"
    return f"its container is {state.status}: run `homelab up`"


def _unavailable(container: Container, reason: str) -> Sequence[ServiceReport]:
    """Return the reports of services that cannot be queried."""
    return [ServiceReport(name, {}, Health(False, reason)) for name in container.services]


def _units_probe(units: Sequence[str]) -> str:
    return argv("systemctl", "is-active", *units) if units else "true"


def _certificate_probe(name: str, service: Service) -> str:
    return certificate_probe(name) if any(endpoint.tls for endpoint in service.endpoints()) else "true"


def _web_uis(inventory: Inventory, container: Container, name: str) -> Mapping[str, str]:
    return {
        ui.endpoint.web_ui: ui.url
        for ui in web_uis(inventory.containers)
        if (ui.container.name, ui.service) == (container.name, name) and ui.host.known_address
    }


def _unit_states(units: Sequence[str], answer: Result) -> Mapping[str, str]:
    # systemctl prints one line for each unit; its exit status covers all of them.
    return dict(zip_longest(units, answer.text.splitlines()[: len(units)], fillvalue="unknown"))
