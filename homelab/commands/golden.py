"""`homelab golden`: create, list and delete golden containers, the templates that `up` clones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.plan import ObservedGuest, Start, select_containers
from homelab.plan.golden_container import GoldenContainer, host_name
from homelab.proxmox import Client, PlanExecutor, golden_templates, hostkeys, vmids
from homelab.proxmox.errors import REFUSED, ProxmoxError
from homelab.proxmox.inspect import inspect_container
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.property_strings import parse
from homelab.proxmox.tasks import TaskFailed
from homelab.runtime.container_changes import Outcome, audited_client, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers
from homelab.runtime.session import Session

_SHUTDOWN = 300  # seconds that the container has to shut down: a killed one makes no good copy
_STOP = 400.0  # seconds that the task has for it
_ATTEMPTS = 3  # vmids to try if another user takes them first


@dataclass(frozen=True, slots=True)
class _Work:
    """A golden container to create or to finish, and the older ones to remove after it."""

    name: str
    vmid: int
    unfinished: GoldenContainer | None
    old: Sequence[GoldenContainer]
    only_cleanup: bool = False  # an earlier run did everything else
    fixed_vmid: bool = False  # named by the user
    storage: str | None = None  # for its disks; None: the container's own

    def lines(self) -> list[str]:
        """Return the work as lines for the confirmation."""
        create = []
        if self.unfinished:
            create = [
                f"finish the golden container {self.unfinished}, which an earlier run began",
                f"start {self.name}, if it is not running",
            ]
        elif not self.only_cleanup:
            create = [
                f"shut {self.name} down, copy it to {self.vmid}, and start it again",
                f"make {self.vmid} a template with everything in {self.name}: passwords, keys and data. Every user who "
                "may clone it on Proxmox gets them",
            ]
        return [*create, *(f"remove the older golden container {each}" for each in self.old)]


def create(
    session: Session, name: str, *, confirm: Confirm, vmid: int | None = None, storage: str | None = None
) -> Outcome:
    """Make a golden container of a deployed one, then remove older ones. Raises HomelabError.

    A repeated run continues an interrupted one. At the end the container runs again; an older golden container
    exists until the new one is complete.
    """
    select_containers(session.inventory, [name])
    with lab_lock(session.inventory.state_dir, "golden create"):
        client = audited_client(session.inventory)
        session = session.on(vmids.resolve_vmids(client, session.inventory))
        (container,) = owned_containers(session, client, [name])
        container.free()
        container.found = _require_complete(client, container)
        work = replace(_plan(session, client, container, vmid), storage=storage)
        if not confirm(work.lines()):
            return Outcome(confirmed=False)
        run_on_containers(client, {name: partial(_Creation(session, client, container).run, work)})
        return Outcome({name: work.lines()})


def delete(session: Session, name: str, *, confirm: Confirm) -> Outcome:
    """Remove the golden containers of a container, which itself need not exist any more. Raises HomelabError."""
    with lab_lock(session.inventory.state_dir, "golden delete"):
        client = audited_client(session.inventory)
        found = golden_templates.goldens(client, session.inventory, name)
        _require_unlocked(found)
        lines = [f"remove the golden container {each}" for each in found]
        if found and not confirm(lines):
            return Outcome(confirmed=False)
        run_on_containers(
            client, {f"golden container {each.vmid}": partial(_remove, session, client, each) for each in found}
        )
        return Outcome({name: lines} if lines else {}, nothing=f"Nothing to do: {name} has no golden container.")


def list_golden(session: Session) -> Sequence[GoldenContainer]:
    """Return the lab's golden containers, oldest first. Raises HomelabError."""
    return golden_templates.goldens(Client(session.inventory.endpoint), session.inventory)


def _require_complete(client: Client, container: ManagedContainer) -> ObservedGuest:
    """Return the container as it is now. Raises HomelabError if it cannot be copied."""
    found = inspect_container(client, container.container, container.found.node)
    if found is None or found.shape is None or found.unfinished:
        raise HomelabError(
            f"Cannot copy {container.name}: it is incomplete",
            f"{container.found.vmid} was removed meanwhile, or is a clone without SSH host keys of its own.",
            "Run `homelab up` and `homelab deploy` first.",
        )
    bind_mounts = [
        option
        for option, value in sorted(found.config.items())
        if re.fullmatch(r"mp\d+", option) and parse(str(value)).get("", "").startswith("/")
    ]
    if bind_mounts:
        names = ",".join(bind_mounts)
        raise HomelabError(
            f"Cannot copy {container.name}: it has bind mounts",
            f"{', '.join(bind_mounts)} is a directory of the node, and Proxmox clones only volumes.",
            f"Remove it on the node for the copy: `pct set {found.vmid} --delete {names}`.",
        )
    return found


def _plan(session: Session, client: Client, container: ManagedContainer, vmid: int | None) -> _Work:
    inventory, name = session.inventory, container.name
    found = golden_templates.goldens(client, inventory, name)
    _require_unlocked(found)
    incomplete = [each for each in found if not each.whole]
    complete = [each for each in found if each.whole]
    if incomplete:
        return _Work(name, 0, incomplete[-1], [*incomplete[:-1], *complete])
    if len(complete) > 1:
        return _Work(name, 0, None, complete[:-1], only_cleanup=True)
    if vmid is None:
        free = golden_templates.free_vmid(client, inventory, container.container.vmid)
        return _Work(name, free, None, complete)
    if vmid in {each.vmid for each in inventory.containers} or not vmids.is_free(client, vmid):
        raise InputError(
            f"Cannot use vmid {vmid}: it is taken",
            "It belongs to a container of the inventory or to another guest.",
            "Name another one, or omit `--vmid`.",
        )
    return _Work(name, vmid, None, complete, fixed_vmid=True)


def _require_unlocked(found: Sequence[GoldenContainer]) -> None:
    for each in found:
        if each.lock:
            raise HomelabError(
                f"Cannot change golden container {each.vmid}: it is locked ({each.lock})",
                f"A task works on it, or was interrupted on node {each.node} and left its lock.",
                f"Wait for the task. If none is running, on the node: `pct unlock {each.vmid}`, `pct destroy "
                f"{each.vmid}`.",
            )


def _remove(session: Session, client: Client, old: GoldenContainer) -> None:
    with session.progress.step(old.of, f"remove the golden container {old.vmid}"):
        for warning in golden_templates.remove(client, old):
            session.progress.note(old.of, warning)


class _Creation:
    """The creation of one golden container."""

    def __init__(self, session: Session, client: Client, container: ManagedContainer) -> None:
        self._session, self._client, self._container = session, client, container
        self._progress = session.progress
        self._executor = PlanExecutor(client, "", session.known_hosts, session.progress)

    def run(self, work: _Work) -> None:
        """Do the work. Raises HomelabError."""
        made = work.unfinished
        if made:
            golden_templates.mark(self._client, self._session.inventory.lab, made)
        elif not work.only_cleanup:
            made = self._copy(work)
        self._start()
        if made:
            with self._progress.step(self._container.name, f"make {made.vmid} a template"):
                self._warn(self._seal(made))
        for old in work.old:
            _remove(self._session, self._client, old)

    def _copy(self, work: _Work) -> GoldenContainer:
        """Shut the container down and clone it; it stays down unless that fails."""
        container, record = self._container, self._record()
        if container.found.running:
            shutdown = partial(self._client.post, f"{container.path}/status/shutdown", timeout=_SHUTDOWN)
            with self._progress.step(container.name, "shut down"):
                container.do("vzshutdown", f"shut down {container.name}", _STOP, shutdown)
        try:
            made = self._clone(record, work)
            golden_templates.mark(self._client, self._session.inventory.lab, made)
            return made
        except HomelabError as error:
            self._start_after(error)
            raise

    def _seal(self, made: GoldenContainer) -> list[str]:
        try:
            return golden_templates.seal(self._client, made, f"convert {made.vmid} to a template")
        except TaskFailed as error:
            raise HomelabError(
                error.brief,
                error.details,
                f"If the storage cannot hold templates: `homelab golden delete {made.of}`, which removes the copy, "
                f"then `homelab golden create {made.of} --storage STORAGE`.",
            ) from error

    def _record(self) -> GoldenContainer:
        container = self._container
        pin = self._session.known_hosts.pins().get(container.name)
        return GoldenContainer(
            of=container.name,
            made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            node=container.found.node,
            template=container.found.template or container.container.template,
            fingerprint=pin.fingerprint if pin else hostkeys.recover(self._client, container.found, container.name),
        )

    def _clone(self, record: GoldenContainer, work: _Work) -> GoldenContainer:
        container, vmid = self._container, work.vmid
        wanted = {"pool": container.container.shape.pool, "storage": work.storage}
        more = {name: value for name, value in wanted.items() if value}
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                with self._progress.step(container.name, f"copy to {vmid}"):
                    self._warn(
                        golden_templates.clone(
                            self._client,
                            record.node,
                            container.found.vmid,
                            vmid,
                            f"copy {container.name} to {vmid}",
                            hostname=host_name(container.name),
                            description=record.description(self._session.inventory.lab),
                            **more,
                        )
                    )
                break
            except ProxmoxError as error:
                fixed = work.fixed_vmid or not attempts_left
                if fixed or error.status != REFUSED or vmids.is_free(self._client, vmid):
                    raise
                vmid = golden_templates.free_vmid(self._client, self._session.inventory, container.found.vmid)
        return replace(record, vmid=vmid)

    def _start(self) -> None:
        container = self._container.container
        found = inspect_container(self._client, container, self._container.found.node)
        if found and not found.running:
            self._executor.execute([Start(container, found)])

    def _start_after(self, error: HomelabError) -> None:
        try:
            self._start()
        except HomelabError as second:
            raise HomelabError(
                error.brief,
                f"{error.details}\nThe container could not be started again, either: {second.brief}.",
                f"{error.resolution} `homelab up` starts {self._container.name}.",
            ) from error

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._progress.note(self._container.name, warning)
