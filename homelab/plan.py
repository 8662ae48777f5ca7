"""What differs between the inventory and what was found, as actions. Pure: nothing here calls anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from homelab.errors import HomelabError, InputError
from homelab.model import Container, Difference, Inventory, Shape, differences

# What Proxmox takes into a running container only when it starts again.
COLD = frozenset({"nesting", "nameservers", "searchdomain"})
_UNCHANGEABLE = frozenset({"unprivileged"})


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses: bytes, and seconds since its start; zeros while it is down."""

    memory: int = 0
    memory_total: int = 0
    disk: int = 0
    disk_total: int = 0
    uptime: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A guest as Proxmox has it. `shape` is None for one that is not ours, or only half made."""

    vmid: int
    name: str
    node: str
    kind: Literal["lxc", "qemu"] = "lxc"
    status: str = "stopped"
    lock: str | None = None
    tags: frozenset[str] = frozenset()
    shape: Shape | None = None
    pending: tuple[str, ...] = ()  # options that wait for the next start
    creator: str | None = None  # the token whose create task left or still runs it, for `lock: create`
    task: str | None = None  # that task, if it still runs
    net0: str = ""
    features: str = ""
    startup: str = ""
    digest: str | None = None
    usage: Usage = field(default_factory=Usage, compare=False)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.status == "running"

    def belongs_to(self, container: Container) -> bool:
        """Whether it carries the tags of the container's lab."""
        return self.kind == "lxc" and container.shape.tags <= self.tags


@dataclass(frozen=True, slots=True)
class Create:
    """Make a container that is not there, and start it."""

    container: Container

    def __str__(self) -> str:
        shape = self.container.shape
        return (f"create {self.container.name} ({self.container.vmid}): {shape.cores} vCPU, {shape.memory} MiB, "
                f"{shape.disk} GiB, {shape.address}, {self.container.template}")


@dataclass(frozen=True, slots=True)
class Update:
    """Change the configuration in place."""

    container: Container
    found: Found
    changes: tuple[Difference, ...]

    def __str__(self) -> str:
        return f"update {self.container.name}: {'; '.join(map(str, self.changes))}"


@dataclass(frozen=True, slots=True)
class Resize:
    """Grow the root disk; `size` in GiB."""

    container: Container
    found: Found
    size: int
    before: int

    def __str__(self) -> str:
        return f"resize {self.container.name}: disk {self.before} → {self.size} GiB"


@dataclass(frozen=True, slots=True)
class Start:
    """Start it."""

    container: Container
    found: Found

    def __str__(self) -> str:
        return f"start {self.container.name}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Shut it down, because something takes effect only when it starts again."""

    container: Container
    found: Found
    because: tuple[str, ...]

    def __str__(self) -> str:
        return f"stop {self.container.name}, so that it starts with the new {', '.join(self.because)}"


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove it with its disk."""

    container: Container
    found: Found

    def __str__(self) -> str:
        return f"destroy {self.container.name} ({self.container.vmid}) and its disk"


Action = Create | Update | Resize | Start | Stop | Destroy


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something will not be done: what, why, and the way out."""

    what: str
    why: str
    way_out: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order; falsy when there is nothing to do."""

    actions: tuple[Action, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def __str__(self) -> str:
        return "\n".join(map(str, self.actions))

    @property
    def harms(self) -> bool:
        """Whether it interrupts or destroys something, so that a person should be asked."""
        return any(isinstance(action, Stop | Destroy) for action in self.actions)

    def by_container(self) -> Mapping[str, Sequence[Action]]:
        """The actions of each container, in order."""
        names = dict.fromkeys(action.container.name for action in self.actions)
        return {name: [action for action in self.actions if action.container.name == name] for name in names}

    def refuse_unsafe(self) -> None:
        """Raise HomelabError, naming every refusal, if anything wanted is unsafe."""
        if not self.refusals:
            return
        first, *others = self.refusals
        if not others:
            raise HomelabError(first.what, first.why, first.way_out)
        lines = [f"{refusal.what}: {refusal.why}\n  {refusal.way_out}" for refusal in self.refusals]
        raise HomelabError(f"{len(self.refusals)} things cannot be done safely", "\n".join(lines),
                           "Nothing has been changed.")


def chosen(inventory: Inventory, limit: Sequence[str]) -> Sequence[Container]:
    """The containers that `--limit` names, or all. Raises InputError for a name that is not in the inventory."""
    names = [container.name for container in inventory.containers]
    if unknown := [name for name in limit if name not in names]:
        raise InputError(f"No container is called {', '.join(unknown)}",
                         f"{inventory.path} has {', '.join(names)}.", "Name one of these.")
    return [container for container in inventory.containers if not limit or container.name in limit]


def plan_up(inventory: Inventory, found: Mapping[int, Found], limit: Sequence[str] = ()) -> Plan:
    """What makes the containers exist, match and run. Raises InputError for an unknown name."""
    containers = chosen(inventory, limit)
    refusals = tuple(refusal for container in containers for refusal in _refuse_up(container, found))
    refused = {refusal.what for refusal in refusals}
    return Plan(() if refused else tuple(a for c in containers for a in _up(c, found.get(c.vmid))), refusals)


def plan_destroy(inventory: Inventory, found: Mapping[int, Found], limit: Sequence[str] = ()) -> Plan:
    """What removes the containers that are ours; those that are not are left alone and not even refused."""
    present = [(container, found[container.vmid]) for container in chosen(inventory, limit)
               if container.vmid in found]
    ours = [(container, there) for container, there in present if there.belongs_to(container)]
    refusals = [_leftover(there) for _, there in present if there.lock == "create"]
    refusals += [_locked(container, there) for container, there in ours if there.lock not in (None, "create")]
    return Plan(tuple(Destroy(container, there) for container, there in ours), tuple(refusals))


def _up(container: Container, found: Found | None) -> Iterator[Action]:
    if found is None or found.shape is None:
        yield Create(container)
        return
    drift = tuple(differences(container.shape, found.shape))
    changes = tuple(difference for difference in drift if difference.field != "disk")
    if changes:
        yield Update(container, found, changes)
    if container.shape.disk > found.shape.disk:
        yield Resize(container, found, container.shape.disk, found.shape.disk)
    owed = tuple(change.field for change in changes if change.field in COLD) or found.pending
    if found.running and owed:
        yield Stop(container, found, owed)
    if not found.running or owed:
        yield Start(container, found)


def _refuse_up(container: Container, found: Mapping[int, Found]) -> Iterator[Refusal]:
    there = found.get(container.vmid)
    if there is None:
        yield from _refuse_create(container, found)
    elif there.lock == "create":
        yield _leftover(there)
    elif not there.belongs_to(container) or there.shape is None:
        yield _foreign(container, there)
    else:
        actions = tuple(_up(container, there))
        if there.lock and actions:
            yield _locked(container, there)
        if there.status not in ("running", "stopped"):
            yield Refusal(f"{container.name} is {there.status}", f"Node {there.node} does not answer for it.",
                          "See that the node is up, then run the same command again.")
        yield from _refuse_changes(container, there.shape)


def _refuse_create(container: Container, found: Mapping[int, Found]) -> Iterator[Refusal]:
    for other in found.values():
        if other.name == container.name and other.belongs_to(container):
            yield Refusal(
                f"{container.name} exists already, as {other.vmid}",
                f"The inventory says vmid {container.vmid}; a container's vmid cannot be changed.",
                f"Write `vmid: {other.vmid}` in the inventory, or destroy {other.vmid} first.")


def _refuse_changes(container: Container, found: Shape) -> Iterator[Refusal]:
    if container.shape.disk < found.disk:
        yield Refusal(
            f"{container.name}: its disk cannot shrink", f"It has {found.disk} GiB, the inventory says "
            f"{container.shape.disk}, and Proxmox cannot make a disk smaller.",
            f"Write `disk: {found.disk}` in the inventory; or destroy the container and make it anew.")
    for change in differences(container.shape, found):
        if change.field in _UNCHANGEABLE:
            yield Refusal(
                f"{container.name}: {change.field} cannot be changed",
                f"It is {change.found}, wanted is {change.wanted}, and Proxmox decides that at creation.",
                f"Back up what is in it, then `homelab destroy {container.name}` and `homelab up`.")


def _foreign(container: Container, there: Found) -> Refusal:
    kind = "container" if there.kind == "lxc" else "virtual machine"
    return Refusal(
        f"{container.name}: vmid {there.vmid} is taken by a {kind} that is not ours",
        f"`{there.name}` on node {there.node} does not carry the tags {', '.join(sorted(container.shape.tags))}.",
        f"Write another vmid for {container.name} in the inventory. Nothing has been touched.")


def _locked(container: Container, there: Found) -> Refusal:
    return Refusal(f"{container.name} is locked ({there.lock})",
                   f"Something else works on {there.vmid}, or was cut off.",
                   f"Wait for its end. If nothing runs any more: `pct unlock {there.vmid}` on node {there.node}.")


def _leftover(there: Found) -> Refusal:
    maker = f" It was begun by {there.creator}." if there.creator else ""
    if there.task:
        return Refusal(f"Somebody else is creating {there.vmid}", f"The task runs on node {there.node}.{maker}",
                       "Wait for its end, or write another vmid in the inventory.")
    return Refusal(
        f"{there.vmid} is half made", f"A create was cut off on node {there.node} and left its lock behind.{maker}",
        f"On the node: `pct unlock {there.vmid}`, then `pct destroy {there.vmid}`; then run the same command again.")
