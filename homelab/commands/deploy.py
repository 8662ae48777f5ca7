"""`homelab deploy`: brings what is inside each container to the desired state, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from homelab.commands.lock import only_one
from homelab.commands.side_by_side import gathered
from homelab.errors import HomelabError
from homelab.host import Host
from homelab.model import Container, Inventory, Secret, Site, Step, Vault
from homelab.plan import chosen
from homelab.progress import Progress
from homelab.services.everywhere import everywhere
from homelab.ssh import Ssh
from homelab.steps.converge import Change, converge, survey
from homelab.trust import KnownHosts


@dataclass(frozen=True)
class HostReport:
    """What a deploy did, or would do, in one container; `seconds` is the wall time it took."""

    container: str
    changes: Sequence[Change]
    seconds: float
    failure: HomelabError | None = None


def connect(container: Container, key: Secret, known_hosts: KnownHosts, deadline: float = 10) -> Ssh:
    """A live SSH connection to a container, its host key checked against the pin. Raises HomelabError."""
    host = Ssh(container.name, str(container.address), key, known_hosts)
    host.connect(deadline)
    return host


def deploy(inventory: Inventory, *, vault: Vault, known_hosts: KnownHosts, progress: Progress,
           limit: Sequence[str] = (), dry_run: bool = False) -> Sequence[HostReport]:
    """Converge the containers side by side; one that fails stops only those that wait for it. Raises HomelabError."""
    containers = chosen(inventory, limit)
    with nullcontext() if dry_run else only_one(inventory.state_dir, "deploy"):
        return _deploy(inventory, containers, vault, known_hosts, progress, dry_run)


def _deploy(inventory: Inventory, containers: Sequence[Container], vault: Vault, known_hosts: KnownHosts,
            progress: Progress, dry_run: bool) -> Sequence[HostReport]:
    key, _ = vault.key_pair("operator")
    connected = gathered({c.name: partial(_connected, c, key, known_hosts) for c in containers})
    hosts = {name: future.result() for name, future in connected.items()}
    failed = {name for name, host in hosts.items() if isinstance(host, HomelabError)}
    # The keys are complete only now that every container has shown its own.
    keys = {name: pin.key for name, pin in known_hosts.pins().items() if pin.key}

    def work(container: Container) -> HostReport:
        started = time.monotonic()
        host = hosts[container.name]
        if isinstance(host, HomelabError):
            return HostReport(container.name, (), 0.0, host)
        with host:
            try:
                site = Site(inventory=inventory, container=container, vault=vault, host_keys=keys, failed=failed,
                            deploying=[c.name for c in containers])
                changes = _converge(host, steps_of(site), progress, dry_run)
                return HostReport(container.name, changes, time.monotonic() - started)
            except HomelabError as error:
                failed.add(container.name)
                return HostReport(container.name, (), time.monotonic() - started, error)

    return [report.result() for report in gathered({c.name: partial(work, c) for c in containers}).values()]


def steps_of(site: Site) -> Sequence[Step]:
    """All steps of a container; what two services share is done once, where it is first wanted."""
    steps: dict[str, Step] = {}
    for group in (everywhere(site), *(service.steps(site) for service in site.container.services.values())):
        for step in group:
            steps.setdefault(step.title, step)
    return list(steps.values())


def _converge(host: Host, steps: Sequence[Step], progress: Progress, dry_run: bool) -> Sequence[Change]:
    return survey(host, steps) if dry_run else converge(host, steps, progress)


def _connected(container: Container, key: Secret, known_hosts: KnownHosts) -> Ssh | HomelabError:
    try:
        return connect(container, key, known_hosts)
    except HomelabError as error:
        return error
