"""`homelab status`: what Proxmox says, what systemd says, what each service says of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from homelab.commands.deploy import connect
from homelab.errors import HomelabError
from homelab.host import Result, argv
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Health, Inventory, Secret, SecretStore
from homelab.runtime.concurrency import run_all

if TYPE_CHECKING:
    from homelab.runtime.container_changes import ContainerState


@dataclass(frozen=True)
class ServiceReport:
    """A service: its units' states as systemd names them, and how it is."""

    name: str
    units: Mapping[str, str]
    health: Health

    @property
    def healthy(self) -> bool:
        """Whether all its units run and it says that it is well."""
        return self.health.healthy and all(state == "active" for state in self.units.values())


@dataclass(frozen=True)
class ContainerReport:
    """A container: what Proxmox says of it, and its services if it could be asked; `unreachable` says why not."""

    name: str
    proxmox: ContainerState
    services: Sequence[ServiceReport] = ()
    unreachable: str = ""

    @property
    def healthy(self) -> bool:
        """Whether it runs as the inventory says and all its services are well."""
        return (
            self.proxmox.running
            and not self.proxmox.drift
            and not self.unreachable
            and all(service.healthy for service in self.services)
        )


@dataclass(frozen=True)
class Report:
    """All of a lab."""

    lab: str
    containers: Sequence[ContainerReport]
    healthy: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "healthy", all(container.healthy for container in self.containers))


def status(inventory: Inventory, *, secret_store: SecretStore, known_hosts: KnownHosts) -> Report:
    """Ask everything at once; what is down is shown as down, and the rest is still shown."""
    from homelab.runtime.container_changes import container_states

    states = {state.name: state for state in container_states(inventory)}
    key, _ = secret_store.key_pair("operator")
    reports = run_all(
        {
            container.name: partial(_container, container, states[container.name], key, known_hosts)
            for container in inventory.containers
        }
    )
    return Report(inventory.lab, [report.result() for report in reports.values()])


def _container(container: Container, state: ContainerState, key: Secret, known_hosts: KnownHosts) -> ContainerReport:
    if not state.running:
        return ContainerReport(container.name, state)
    try:
        with connect(container, key, known_hosts, deadline=3) as host:
            probes = [
                [_units_probe(service.units()), *service.health_probes()] for service in container.services.values()
            ]
            answers = iter(host.batch([probe for group in probes for probe in group]))
    except HomelabError as error:
        return ContainerReport(container.name, state, unreachable=f"{error.brief}: {error.details}")
    grouped = [[next(answers) for _ in group] for group in probes]
    return ContainerReport(
        container.name,
        state,
        [
            ServiceReport(name, _units(service.units(), units), service.health(said))
            for (name, service), (units, *said) in zip(container.services.items(), grouped, strict=True)
        ],
    )


def _units_probe(units: Sequence[str]) -> str:
    return argv("systemctl", "is-active", *units) if units else "true"


def _units(units: Sequence[str], answer: Result) -> Mapping[str, str]:
    # systemctl prints one line for each unit, and ends with a status that says only whether all run.
    return dict(zip(units, answer.text.splitlines(), strict=False)) if units else {}
