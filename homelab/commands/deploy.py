"""`homelab deploy`: brings what is inside each container to the desired state, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from homelab.errors import HomelabError
from homelab.host import Host
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory, Secret, SecretStore, ServiceContext, Step
from homelab.plan import select_containers
from homelab.progress import Progress
from homelab.runtime.concurrency import run_all
from homelab.runtime.lab_lock import lab_lock
from homelab.services.base_system import base_system
from homelab.ssh import Ssh
from homelab.steps import HealthCheck
from homelab.steps.converge import StepFailed, converge
from homelab.steps.host_state import Change, pending_changes

if TYPE_CHECKING:
    from homelab.runtime.rollback import DeployRollback


@dataclass(frozen=True)
class HostReport:
    """What a deploy did, or would do, in one container; `seconds` is the wall time it took.

    After a failure, `changes` is what was done before it; `rolled_back` says that none of it is there any more.
    """

    container: str
    changes: Sequence[Change]
    seconds: float
    failure: HomelabError | None = None
    steps: int = 0  # all that there are, those that remove something included
    rolled_back: bool = False

    @property
    def unchanged(self) -> int:
        """How many steps found nothing to do, or were not reached."""
        return self.steps - len(self.changes) - bool(self.failure and self.steps)


class Connection(Host, Protocol):
    """A host that has to be hung up."""

    def close(self) -> None:
        """Hang up."""


Reach = Callable[[Container, Secret, KnownHosts], Connection]


def connect(container: Container, key: Secret, known_hosts: KnownHosts, deadline: float = 10) -> Ssh:
    """A live SSH connection to a container, its host key checked against the pin. Raises HomelabError."""
    host = Ssh(container.name, str(container.address), key, known_hosts)
    host.connect(deadline)
    return host


def deploy(
    inventory: Inventory,
    *,
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    limit: Sequence[str] = (),
    dry_run: bool = False,
    rollback: bool = False,
    reach: Reach = connect,
) -> Sequence[HostReport]:
    """Converge the containers side by side; one that fails stops only those that wait for it. Raises HomelabError.

    With `rollback`, one that fails goes back to where it was. Raises InputError, before anything is changed, if that
    cannot be had.
    """
    containers = select_containers(inventory, limit)
    way_back = _way_back(inventory, known_hosts, progress) if rollback else None
    with nullcontext() if dry_run else lab_lock(inventory.state_dir, "deploy"):
        return _deploy(inventory, containers, secret_store, known_hosts, progress, dry_run, way_back, reach)


def _deploy(
    inventory: Inventory,
    containers: Sequence[Container],
    secret_store: SecretStore,
    known_hosts: KnownHosts,
    progress: Progress,
    dry_run: bool,
    way_back: DeployRollback | None,
    reach: Reach,
) -> Sequence[HostReport]:
    key, _ = secret_store.key_pair("operator")
    connected = run_all({c.name: partial(_reached, reach, c, key, known_hosts) for c in containers})
    hosts = {name: future.result() for name, future in connected.items()}
    failed = {name for name, host in hosts.items() if isinstance(host, HomelabError)}
    # The keys are complete only now that every container has shown its own.
    keys = {name: pin.key for name, pin in known_hosts.pins().items() if pin.key}

    def wanted(container: Container) -> Sequence[Step]:
        return steps_of(
            ServiceContext(
                inventory=inventory,
                container=container,
                secret_store=secret_store,
                host_keys=keys,
                failed=failed,
                deploying=[c.name for c in containers],
            )
        )

    def work(container: Container) -> HostReport:
        started = time.monotonic()
        host = hosts[container.name]
        if isinstance(host, HomelabError):
            return HostReport(container.name, (), 0.0, host)
        steps: Sequence[Step] = ()
        failure: HomelabError | None = None
        try:
            steps = wanted(container)
            changes: Sequence[Change] = pending_changes(host, steps) if dry_run else converge(host, steps, progress)
        except HomelabError as error:
            failed.add(container.name)
            failure, changes = error, error.changed if isinstance(error, StepFailed) else ()
        failure, rolled_back = way_back.end(host, failure) if way_back else (failure, False)
        return HostReport(
            container.name,
            _real(changes),
            time.monotonic() - started,
            failure,
            len({*steps, *(change.step for change in changes)}),
            rolled_back,
        )

    with ExitStack() as open_ones:
        for host in hosts.values():
            if not isinstance(host, HomelabError):
                open_ones.callback(host.close)
        if way_back:
            _prepare(way_back, containers, hosts, wanted)
            failed.update(name for name, host in hosts.items() if isinstance(host, HomelabError))
        return [report.result() for report in run_all({c.name: partial(work, c) for c in containers}).values()]


def _way_back(inventory: Inventory, known_hosts: KnownHosts, progress: Progress) -> DeployRollback:
    from homelab.runtime.rollback import DeployRollback  # it talks to Proxmox, for which most deploys have no use

    return DeployRollback(inventory, known_hosts, progress)


def _prepare(
    way_back: DeployRollback,
    containers: Sequence[Container],
    hosts: dict[str, Connection | HomelabError],
    wanted: Callable[[Container], Sequence[Step]],
) -> None:
    """Have a way back for each container that is about to be changed; one that cannot be looked into is left out."""
    from homelab.runtime.rollback import changes_something

    def look(container: Container) -> bool | HomelabError:
        host = hosts[container.name]
        try:
            return host if isinstance(host, HomelabError) else changes_something(host, wanted(container))
        except HomelabError as error:
            return error

    seen = {name: future.result() for name, future in run_all({c.name: partial(look, c) for c in containers}).items()}
    hosts |= {name: found for name, found in seen.items() if isinstance(found, HomelabError)}
    way_back.prepare(
        [name for name, found in seen.items() if found is True],
        [name for name, found in seen.items() if not isinstance(found, HomelabError)],
    )


def steps_of(context: ServiceContext) -> Sequence[Step]:
    """All steps of a container; what two services share is done once, where it is first wanted. Last, that all work."""
    steps: dict[str, Step] = {}
    services = context.container.services
    for group in (base_system(context), *(service.steps(context) for service in services.values())):
        for step in group:
            steps.setdefault(step.title, step)
    changing = tuple(step for step in steps.values() if not step.waits)
    return [
        *steps.values(),
        *(
            HealthCheck(name, service.health_probes(), service.health, service.units(), changing)
            for name, service in services.items()
        ),
    ]


def _real(changes: Sequence[Change]) -> Sequence[Change]:
    """Without those that only wait for something."""
    return [change for change in changes if not change.step.waits]


def _reached(reach: Reach, container: Container, key: Secret, known_hosts: KnownHosts) -> Connection | HomelabError:
    try:
        return reach(container, key, known_hosts)
    except HomelabError as error:
        return error
