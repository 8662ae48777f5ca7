"""Convergence of containers over SSH: connect, compare, apply, in parallel."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from homelab.certificates import Authority
from homelab.errors import HomelabError, InputError
from homelab.model import Container, Service, ServiceContext, Step
from homelab.model.inventory import name_without_instance
from homelab.runtime.concurrency import run_all
from homelab.runtime.connections import Connection
from homelab.runtime.container_addresses import locate
from homelab.runtime.session import Session
from homelab.services.base_system import base_packages, base_system
from homelab.steps import HealthCheck, Packages
from homelab.steps.converge import StepFailed, converge
from homelab.steps.host_state import Change, pending_changes

if TYPE_CHECKING:
    from homelab.runtime.rollback import DeployRollback


@dataclass(frozen=True)
class HostReport:
    """The changes of a deploy in one container; `seconds` is wall time.

    After a failure, `changes` were made before it; `rolled_back` means that the container has none of them any more.
    """

    container: str
    changes: Sequence[Change]
    seconds: float
    failure: HomelabError | None = None
    steps: int = 0  # of the container, removals included
    rolled_back: bool = False

    @property
    def unchanged(self) -> int:
        """The number of steps that were up to date or not reached."""
        return self.steps - len(self.changes) - bool(self.failure and self.steps)


def converge_containers(
    session: Session, containers: Sequence[Container], dry_run: bool = False, rollback: DeployRollback | None = None
) -> Sequence[HostReport]:
    """Converge the containers in parallel; a failing one stops only those that wait for it.

    With `dry_run`, only compare. Raises InputError, before anything is changed, if the input of a service is invalid, a
    rollback is not possible, or a file of the lab's state folder is damaged.
    """
    session.require_intact_state()
    if dry_run:
        session = session.preview()
    session = session.on(locate(session.inventory))
    names = [container.name for container in containers]
    containers = [container for container in session.inventory.containers if container.name in names]
    known = session.secrets.known_authority()
    run = _Convergence(session, containers)
    _report_renewed_authority(session, known)
    with ExitStack() as connections:
        for host in run.hosts.values():
            if not isinstance(host, HomelabError):
                connections.callback(host.close)
        if rollback:
            run.prepare(rollback)
        jobs = {c.name: partial(run.converge, c, dry_run, rollback) for c in containers}
        return [report.result() for report in run_all(jobs).values()]


def _report_renewed_authority(session: Session, known: Authority | None) -> None:
    """Report a new certificate of the CA, which devices have to install: it has other names, or a later expiry."""
    found = session.secrets.known_authority()
    if known and found and found.certificate != known.certificate:
        session.progress.note(
            "CA",
            f"its new certificate is for {found.description.names}; install it again on the devices that trust it "
            "(`homelab ca export`): with the old one, they refuse new names and addresses",
        )


def steps_of(context: ServiceContext) -> Sequence[Step]:
    """Return a container's steps in order: services after those that they need, a shared step once, health checks last.

    Raises InputError if services declare the same file, unit or other object differently.
    """
    steps: dict[str, Step] = {}
    owners: dict[str, str] = {}
    services = context.container.services
    groups = {"the base system": base_system(context)}
    groups |= {name: each.steps(context) for name, each in _required_first(services).items()}
    for name, group in groups.items():
        for step in group:
            shared = steps.setdefault(step.title, step)
            owner = owners.setdefault(step.title, name)
            if owner != name and _definition(shared) != _definition(step):
                raise InputError(
                    f"Cannot deploy {context.container.name}: {owner} and {name} declare {step.title} differently",
                    "Both services need it on the same container, each in its own form.",
                    "Move one of them to another container in the inventory.",
                )
    _add_packages(steps, base_packages(context))
    changing = tuple(step for step in steps.values() if not step.is_wait)
    checks = [
        HealthCheck(name, service.health_probes(), service.assess, service.units(), changing)
        for name, service in services.items()
    ]
    return [*steps.values(), *checks]


def _required_first(services: Mapping[str, Service]) -> Mapping[str, Service]:
    """Return the services, each after those that it requires or uses: a wait for another one would wait forever."""
    ordered: dict[str, Service] = {}

    def add(name: str) -> None:
        if name not in ordered:
            needed = {*services[name].requires, *services[name].uses}
            for each in services:
                if name_without_instance(each) in needed:
                    add(each)
            ordered[name] = services[name]

    for name in services:
        add(name)
    return ordered


def _definition(step: Step) -> Mapping[str, object]:
    """Return the fields of a step, without its triggers, of which each service has its own."""
    return {"kind": type(step)} | {name: value for name, value in _fields(step).items() if name != "triggered_by"}


def _fields(step: Step) -> Mapping[str, object]:
    return {each.name: getattr(step, each.name) for each in fields(step)} if is_dataclass(step) else vars(step)


def _add_packages(steps: dict[str, Step], names: Sequence[str]) -> None:
    """Install further packages in the transaction of the last step with packages, as each one takes seconds.

    A step that triggers others is left as it is: its copy would not trigger them.
    """
    triggers = {trigger for step in steps.values() for trigger in step.triggered_by}
    *_, last = [None, *(step for step in steps.values() if isinstance(step, Packages) and step not in triggers)]
    if names and last:
        steps[last.title] = replace(last, names=[*last.names, *names])
    elif names:
        step = Packages(names)
        steps[step.title] = step


class _Convergence:
    """One run on several containers, each with a connection or the error that prevented it."""

    def __init__(self, session: Session, containers: Sequence[Container]) -> None:
        self._session, self._containers = session, containers
        connected = run_all({c.name: partial(self._connect, c) for c in containers})
        self.hosts = {name: future.result() for name, future in connected.items()}
        self._failed = {name for name, host in self.hosts.items() if isinstance(host, HomelabError)}
        # Complete only after every container has shown its key.
        self._host_keys = session.known_hosts.key_lines()
        # Bad input of one container stops the deploy before anything is changed.
        self._steps = {container.name: self._steps_of(container) for container in containers}
        self._failed |= {name for name, steps in self._steps.items() if isinstance(steps, HomelabError)}

    def _connect(self, container: Container) -> Connection | HomelabError:
        try:
            return self._session.connect(container)
        except HomelabError as error:
            return error

    def _steps_of(self, container: Container) -> Sequence[Step] | HomelabError:
        """Return the steps, or the error if a fact is missing, such as an address by DHCP. Raises InputError."""
        context = ServiceContext(
            inventory=self._session.inventory,
            container=container,
            secret_store=self._session.secrets,
            host_keys=self._host_keys,
            failed=self._failed,
            deploying=[c.name for c in self._containers],
        )
        try:
            return steps_of(context)
        except InputError:
            raise
        except HomelabError as error:
            return error

    def prepare(self, rollback: DeployRollback) -> None:
        """Take a snapshot of each container that will change; a container that cannot be inspected has failed."""
        from homelab.runtime.rollback import changes_something

        def will_change(container: Container) -> bool | HomelabError:
            host, steps = self.hosts[container.name], self._steps[container.name]
            if isinstance(host, HomelabError):
                return host
            if isinstance(steps, HomelabError):
                return steps
            try:
                return changes_something(host, steps)
            except HomelabError as error:
                return error

        inspected = run_all({c.name: partial(will_change, c) for c in self._containers})
        results = {name: future.result() for name, future in inspected.items()}
        errors = {name: result for name, result in results.items() if isinstance(result, HomelabError)}
        self.hosts |= errors
        rollback.prepare(
            [name for name, result in results.items() if result is True], [n for n in results if n not in errors]
        )
        self._failed |= set(errors)

    def converge(self, container: Container, dry_run: bool, rollback: DeployRollback | None) -> HostReport:
        """Converge one container, or only compare it."""
        started = time.monotonic()
        host, steps = self.hosts[container.name], self._steps[container.name]
        if isinstance(host, HomelabError):
            return HostReport(container.name, (), 0.0, host)
        if isinstance(steps, HomelabError):
            return HostReport(container.name, (), 0.0, steps)
        failure: HomelabError | None = None
        try:
            changes: Sequence[Change] = (
                pending_changes(host, steps) if dry_run else converge(host, steps, self._session.progress)
            )
        except HomelabError as error:
            self._failed.add(container.name)
            failure, changes = error, error.changed if isinstance(error, StepFailed) else ()
        failure, rolled_back = rollback.finish(host, failure) if rollback else (failure, False)
        return HostReport(
            container.name,
            [change for change in changes if not change.step.is_wait],
            time.monotonic() - started,
            failure,
            len({*steps, *(change.step for change in changes)}),
            rolled_back,
        )
