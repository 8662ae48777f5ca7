"""What can be done to a container, as data, and the plan that holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homelab.errors import HomelabError
from homelab.model import Container, Difference
from homelab.model.firewall import Firewall, changes
from homelab.plan.drift import Disk
from homelab.plan.golden_container import GoldenContainer
from homelab.plan.observed_guest import ObservedGuest
from homelab.plan.template import Template


@dataclass(frozen=True, slots=True)
class Create:
    """Make a container that is not there, and start it. The template has been looked up before it is carried out."""

    container: Container
    template: Template | None = None

    def __str__(self) -> str:
        shape = self.container.shape
        return (
            f"create {self.container.name} ({self.container.vmid}): {shape.cores} vCPU, {shape.memory} MiB, "
            f"{shape.disk} GiB, {shape.address}, {self.template or self.container.template}"
        )


@dataclass(frozen=True, slots=True)
class Clone:
    """Make a container that is not there of a golden one, and all else that makes it what it should be.

    The golden container has been looked up before it is carried out.
    """

    container: Container
    golden: GoldenContainer | None = None

    def __str__(self) -> str:
        shape = self.container.shape
        return (
            f"clone {self.container.name} ({self.container.vmid}): {shape.cores} vCPU, {shape.memory} MiB, "
            f"{shape.disk} GiB, {shape.address}, golden/{self.container.clone_from}"
            f"{f' ({self.golden})' if self.golden else ''}"
        )


@dataclass(frozen=True, slots=True)
class RegenerateIdentity:
    """Give a clone SSH host keys and a machine-id of its own, and start it again; then it is finished."""

    container: Container
    found: ObservedGuest

    def __str__(self) -> str:
        return f"renew {self.container.name}: SSH host keys and machine-id are still those of its golden container"


@dataclass(frozen=True, slots=True)
class Update:
    """Change the configuration in place."""

    container: Container
    found: ObservedGuest
    changes: tuple[Difference, ...]

    def __str__(self) -> str:
        return f"update {self.container.name}: {'; '.join(map(str, self.changes))}"


@dataclass(frozen=True, slots=True)
class UpdateFirewall:
    """Make a container's firewall what it should be: its rules and policies, on or off. `found`: None for a new one."""

    container: Container
    found: ObservedGuest | None
    goal: Firewall

    @property
    def changes(self) -> tuple[str, ...]:
        """What becomes different, line by line."""
        return tuple(changes(self.goal, self.found.firewall if self.found else Firewall()))

    def __str__(self) -> str:
        return f"firewall of {self.container.name}: {'; '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Resize:
    """Grow a disk, the root disk or a mount point's."""

    container: Container
    found: ObservedGuest
    disk: Disk

    def __str__(self) -> str:
        which = "disk" if self.disk.path == "/" else self.disk.path
        return f"resize {self.container.name}: {which} {self.disk.found} → {self.disk.wanted} GiB"


@dataclass(frozen=True, slots=True)
class MoveToPool:
    """Make it a member of a pool, and of no other."""

    container: Container
    found: ObservedGuest
    pool: str

    def __str__(self) -> str:
        return f"move {self.container.name}: pool {self.found.pool or 'none'} → {self.pool}"


@dataclass(frozen=True, slots=True)
class Start:
    """Start it."""

    container: Container
    found: ObservedGuest

    def __str__(self) -> str:
        return f"start {self.container.name}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Shut it down, because something takes effect only when it starts again."""

    container: Container
    found: ObservedGuest
    because: tuple[str, ...]

    def __str__(self) -> str:
        return f"stop {self.container.name}, so that it starts with the new {', '.join(self.because)}"


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove it with its disk."""

    container: Container
    found: ObservedGuest

    def __str__(self) -> str:
        return f"destroy {self.container.name} ({self.container.vmid}) and its disk"


Action = Create | Clone | RegenerateIdentity | UpdateFirewall | Update | Resize | MoveToPool | Start | Stop | Destroy


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something will not be done: what, why, and the way out."""

    brief: str
    details: str
    resolution: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a person should know about a container, though nothing is done about it."""

    container: str
    text: str

    def __str__(self) -> str:
        return f"{self.container}: {self.text}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order; falsy when there is nothing to do."""

    actions: tuple[Action, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()

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
            raise HomelabError(first.brief, first.details, first.resolution)
        lines = [f"{refusal.brief}: {refusal.details}\n  {refusal.resolution}" for refusal in self.refusals]
        raise HomelabError(
            f"{len(self.refusals)} things cannot be done safely", "\n".join(lines), "Nothing has been changed."
        )
