"""`homelab bake`: a deployed container becomes a template that `up` can start others from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts
from homelab.model import Inventory
from homelab.plan import ObservedGuest, Start, select_containers
from homelab.plan.golden_container import GoldenContainer, host_name
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, golden_templates, hostkeys, vmids
from homelab.proxmox.errors import REFUSED, ProxmoxError
from homelab.proxmox.inspect import inspect_container
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.properties import parse
from homelab.proxmox.tasks import TaskFailed
from homelab.runtime.container_changes import Outcome, audited_client, run_on_containers
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.owned_containers import Confirm, owned_containers

_SHUTDOWN = 300  # seconds that the container has to end by itself: what is cut off makes no good copy
_STOP = 400.0  # seconds that the task has for it
_OTHER_VMIDS = 3  # times that another vmid is taken because somebody was quicker


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done: bake anew or finish what was cut off, and which older golden containers go then."""

    name: str
    vmid: int
    unfinished: GoldenContainer | None
    old: Sequence[GoldenContainer]
    cut_off: bool = False  # an earlier run has done all but removing the older ones
    given: bool = False  # no other vmid will do
    storage: str | None = None  # where its disks go; none: where the container's own are

    def lines(self) -> list[str]:
        """The same in words."""
        begun = []
        if self.unfinished:
            begun = [
                f"finish the golden container {self.unfinished}, which an earlier run began",
                f"start {self.name}, if it is not running",
            ]
        elif not self.cut_off:
            begun = [
                f"shut {self.name} down, copy it to {self.vmid}, and start it again",
                f"make {self.vmid} a template, with all that {self.name} has in it: its passwords, its keys, its "
                "data. Whoever may clone it on Proxmox has them too",
            ]
        return [*begun, *(f"remove the older golden container {each}" for each in self.old)]


def bake(
    inventory: Inventory,
    name: str,
    *,
    known_hosts: KnownHosts,
    progress: Progress,
    confirm: Confirm,
    vmid: int | None = None,
    storage: str | None = None,
) -> Outcome:
    """Make a golden container of a deployed one, in the place of an older one. Raises HomelabError.

    Killed at any point, the next run goes on: the container runs again at its end, and the older golden container
    is there until the new one is whole.
    """
    select_containers(inventory, [name])
    with lab_lock(inventory.state_dir, "bake"):
        client = audited_client(inventory)
        inventory = vmids.resolve_vmids(client, inventory)
        (kept,) = owned_containers(client, inventory, [name], progress)
        kept.free()
        kept.found = _whole(client, kept)
        work = replace(_work(client, inventory, kept, vmid), storage=storage)
        if not confirm(work.lines()):
            return Outcome(confirmed=False)
        run_on_containers(client, {name: partial(_Baker(client, inventory, kept, known_hosts).bake, work)})
        return Outcome({name: work.lines()})


def remove(inventory: Inventory, name: str, *, progress: Progress, confirm: Confirm) -> Outcome:
    """Remove the golden containers of a container, which itself need not be there any more. Raises HomelabError."""
    with lab_lock(inventory.state_dir, "bake"):
        client = audited_client(inventory)
        found = golden_templates.goldens(client, inventory, name)
        _require_unlocked(found)
        lines = [f"remove the golden container {each}" for each in found]
        if found and not confirm(lines):
            return Outcome(confirmed=False)
        run_on_containers(
            client, {f"golden container {each.vmid}": partial(_remove, client, progress, each) for each in found}
        )
        return Outcome({name: lines} if lines else {}, nothing=f"Nothing to do: {name} has no golden container.")


def _whole(client: Client, kept: ManagedContainer) -> ObservedGuest:
    """What it is once nothing works on it any more. Raises HomelabError for one that is not fit to be copied."""
    found = inspect_container(client, kept.container, kept.found.node)
    if found is None or found.shape is None or found.unfinished:
        raise HomelabError(
            f"{kept.name} is not whole",
            f"{kept.found.vmid} has gone, or is a clone that has no SSH host keys of its own yet.",
            "Run `homelab up` and `homelab deploy` first.",
        )
    binds = [
        option
        for option, value in sorted(found.config.items())
        if re.fullmatch(r"mp\d+", option) and parse(str(value)).get("", "").startswith("/")
    ]
    if binds:
        raise HomelabError(
            f"{kept.name} cannot be copied",
            f"{', '.join(binds)} is a directory of the node, and Proxmox clones only volumes.",
            f"On the node, for the time being: `pct set {found.vmid} --delete {','.join(binds)}`.",
        )
    return found


def _work(client: Client, inventory: Inventory, kept: ManagedContainer, vmid: int | None) -> _Work:
    found = golden_templates.goldens(client, inventory, kept.name)
    _require_unlocked(found)
    half, whole = [each for each in found if not each.whole], [each for each in found if each.whole]
    if half:
        return _Work(kept.name, 0, half[-1], [*half[:-1], *whole])
    if len(whole) > 1:
        return _Work(kept.name, 0, None, whole[:-1], cut_off=True)
    if vmid is None:
        return _Work(kept.name, golden_templates.free_vmid(client, inventory, kept.container.vmid), None, whole)
    if vmid in {container.vmid for container in inventory.containers} or not vmids.is_free(client, vmid):
        raise InputError(
            f"vmid {vmid} is not free",
            "It belongs to a container of the inventory, or somebody has it.",
            "Name another one, or leave `--vmid` out.",
        )
    return _Work(kept.name, vmid, None, whole, given=True)


def _require_unlocked(found: Sequence[GoldenContainer]) -> None:
    for each in found:
        if each.lock:
            raise HomelabError(
                f"The golden container {each.vmid} is locked ({each.lock})",
                f"Something else works on it, or was cut off on node {each.node} and left its lock behind.",
                f"Wait for its end. If nothing runs any more, on the node: `pct unlock {each.vmid}`, `pct destroy "
                f"{each.vmid}`.",
            )


def _remove(client: Client, progress: Progress, old: GoldenContainer) -> None:
    with progress.step(old.of, f"remove the golden container {old.vmid}"):
        for warning in golden_templates.remove(client, old):
            progress.note(old.of, warning)


class _Baker:
    """Bakes one container."""

    def __init__(self, client: Client, inventory: Inventory, kept: ManagedContainer, known_hosts: KnownHosts) -> None:
        self._client, self._inventory, self._kept, self._known_hosts = client, inventory, kept, known_hosts
        self._progress = kept.progress
        self._builder = PlanExecutor(client, "", known_hosts, kept.progress)

    def bake(self, work: _Work) -> None:
        """Do all of it. Raises HomelabError."""
        name, made = self._kept.name, work.unfinished
        if made:
            golden_templates.mark(self._client, self._inventory.lab, made)
        elif not work.cut_off:
            made = self._copied(work)
        self._start()
        if made:
            with self._progress.step(name, f"make {made.vmid} a template"):
                self._warn(self._sealed(made))
        for old in work.old:
            _remove(self._client, self._progress, old)

    def _copied(self, work: _Work) -> GoldenContainer:
        """The clone, not sealed yet. The container is down after that, unless that failed."""
        kept, said = self._kept, self._record()
        if kept.found.running:
            with self._progress.step(kept.name, "shut down"):
                kept.do(
                    "vzshutdown",
                    "shutting it down",
                    _STOP,
                    partial(self._client.post, f"{kept.path}/status/shutdown", timeout=_SHUTDOWN),
                )
        try:
            made = self._cloned(said, work)
            golden_templates.mark(self._client, self._inventory.lab, made)
            return made
        except HomelabError as error:
            self._start_after(error)
            raise

    def _sealed(self, made: GoldenContainer) -> list[str]:
        try:
            return golden_templates.seal(self._client, made, f"{self._kept.name}: making a template of {made.vmid}")
        except TaskFailed as error:
            raise HomelabError(
                error.brief,
                error.details,
                f"Where the storage cannot hold templates: `homelab bake --delete {made.of}`, which "
                "removes the copy, then `homelab bake` again with `--storage`.",
            ) from error

    def _record(self) -> GoldenContainer:
        kept, name = self._kept, self._kept.name
        pin = self._known_hosts.pins().get(name)
        return GoldenContainer(
            of=name,
            made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            node=kept.found.node,
            template=kept.found.template or kept.container.template,
            fingerprint=pin.fingerprint if pin else hostkeys.recover(self._client, kept.found, name),
        )

    def _cloned(self, said: GoldenContainer, work: _Work) -> GoldenContainer:
        kept, vmid = self._kept, work.vmid
        wanted = {"pool": kept.container.shape.pool, "storage": work.storage}
        more = {name: value for name, value in wanted.items() if value}
        for left in reversed(range(_OTHER_VMIDS)):
            try:
                with self._progress.step(kept.name, f"copy to {vmid}"):
                    self._warn(
                        golden_templates.clone(
                            self._client,
                            said.node,
                            kept.found.vmid,
                            vmid,
                            f"{kept.name}: copying it to {vmid}",
                            hostname=host_name(kept.name),
                            description=said.description(self._inventory.lab),
                            **more,
                        )
                    )
                break
            except ProxmoxError as error:
                if work.given or not left or error.status != REFUSED or vmids.is_free(self._client, vmid):
                    raise
                vmid = golden_templates.free_vmid(self._client, self._inventory, kept.found.vmid)
        return replace(said, vmid=vmid)

    def _start(self) -> None:
        container = self._kept.container
        found = inspect_container(self._client, container, self._kept.found.node)
        if found and not found.running:
            self._builder.execute([Start(container, found)])

    def _start_after(self, error: HomelabError) -> None:
        try:
            self._start()
        except HomelabError as second:
            raise HomelabError(
                error.brief,
                f"{error.details}\nNor could it be started again: {second.brief}.",
                f"{error.resolution} `homelab up` starts {self._kept.name}.",
            ) from error

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._progress.note(self._kept.name, warning)
