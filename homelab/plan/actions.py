"""The actions on containers, as data, and the plan that consists of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homelab.errors import HomelabError
from homelab.model import DHCP, Container, ContainerConfig, Difference
from homelab.model.firewall import Firewall, changes
from homelab.plan.drift import Disk, needs_restart
from homelab.plan.golden_container import GoldenContainer
from homelab.plan.observed_guest import ObservedGuest
from homelab.plan.template import Template


def _address(shape: ContainerConfig) -> str:
    return "address by DHCP" if shape.address == DHCP else str(shape.address)


@dataclass(frozen=True, slots=True)
class Create:
    """Create a missing container and start it. `template` is resolved before the action is carried out."""

    container: Container
    template: Template | None = None

    def __str__(self) -> str:
        shape = self.container.shape
        return (
            f"create {self.container.name} ({self.container.vmid}): {shape.cores} vCPU, {shape.memory} MiB, "
            f"{shape.disk} GiB, {_address(shape)}, {self.template or self.container.template}"
        )


@dataclass(frozen=True, slots=True)
class Clone:
    """Clone a missing container from a golden one, adapt it to the inventory and start it.

    `golden` is resolved before the action is carried out.
    """

    container: Container
    golden: GoldenContainer | None = None

    def __str__(self) -> str:
        shape = self.container.shape
        return (
            f"clone {self.container.name} ({self.container.vmid}): {shape.cores} vCPU, {shape.memory} MiB, "
            f"{shape.disk} GiB, {_address(shape)}, golden/{self.container.clone_from}"
            f"{f' ({self.golden})' if self.golden else ''}"
        )


@dataclass(frozen=True, slots=True)
class RegenerateIdentity:
    """Give a clone its own SSH host keys and machine-id and restart it, which finishes the clone."""

    container: Container
    found: ObservedGuest

    def __str__(self) -> str:
        return (
            f"regenerate identity of {self.container.name}: SSH host keys and machine-id are still those of its "
            "golden container"
        )


@dataclass(frozen=True, slots=True)
class Update:
    """Change the configuration in place."""

    container: Container
    found: ObservedGuest
    changes: tuple[Difference, ...]

    @property
    def after_restart(self) -> frozenset[str]:
        """The fields that the running container has only after a restart; not those with the wanted live value."""
        if not self.found.running:
            return frozenset()
        live = self.found.live
        return frozenset(
            change.field
            for change in self.changes
            if needs_restart(self.container, change) and (live is None or live.value(change.field) != change.wanted)
        )

    def __str__(self) -> str:
        return f"update {self.container.name}: {'; '.join(map(str, self.changes))}"


@dataclass(frozen=True, slots=True)
class UpdateFirewall:
    """Update a container's firewall: its rules, its policies and its switch. `found` is None for a new container."""

    container: Container
    found: ObservedGuest | None
    goal: Firewall

    @property
    def changes(self) -> tuple[str, ...]:
        """The changes, one line each."""
        return tuple(changes(self.goal, self.found.firewall if self.found else Firewall()))

    def __str__(self) -> str:
        return f"firewall of {self.container.name}: {'; '.join(self.changes)}"


@dataclass(frozen=True, slots=True)
class Resize:
    """Grow the root disk or the disk of a mount point."""

    container: Container
    found: ObservedGuest
    disk: Disk

    def __str__(self) -> str:
        which = "disk" if self.disk.path == "/" else self.disk.path
        return f"resize {self.container.name}: {which} {self.disk.found} → {self.disk.wanted} GiB"


@dataclass(frozen=True, slots=True)
class MoveToPool:
    """Move the container to a pool."""

    container: Container
    found: ObservedGuest
    pool: str

    def __str__(self) -> str:
        return f"move {self.container.name}: pool {self.found.pool or 'none'} → {self.pool}"


@dataclass(frozen=True, slots=True)
class Start:
    """Start the container."""

    container: Container
    found: ObservedGuest

    def __str__(self) -> str:
        return f"start {self.container.name}"


@dataclass(frozen=True, slots=True)
class Stop:
    """Shut the container down, for changes that take effect at its next start."""

    container: Container
    found: ObservedGuest
    because: tuple[str, ...]

    def __str__(self) -> str:
        return f"stop {self.container.name}, to restart it with the new {', '.join(self.because)}"


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy the container and its disk, after a shutdown if it has a `stop_timeout`."""

    container: Container
    found: ObservedGuest

    @property
    def shutdown(self) -> int:
        """The seconds for its shutdown; 0 for none."""
        return (self.found.shape and self.found.running and self.found.shape.stop_timeout) or 0

    def __str__(self) -> str:
        first = f", after a shutdown within {self.shutdown} s" if self.shutdown else ""
        return f"destroy {self.container.name} ({self.container.vmid}) and its disk{first}"


Action = Create | Clone | RegenerateIdentity | UpdateFirewall | Update | Resize | MoveToPool | Start | Stop | Destroy


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change that homelab refuses to make, with the cause and a way out."""

    brief: str
    details: str
    resolution: str


@dataclass(frozen=True, slots=True)
class Note:
    """Information about a container that leads to no action."""

    container: str
    text: str

    def __str__(self) -> str:
        return f"{self.container}: {self.text}"


@dataclass(frozen=True, slots=True)
class Plan:
    """The actions in order, refusals and notes; falsy when there are no actions."""

    actions: tuple[Action, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[Note, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.actions)

    def __str__(self) -> str:
        return "\n".join(map(str, self.actions))

    @property
    def harms(self) -> bool:
        """Whether it stops or destroys a container and therefore needs confirmation."""
        return any(isinstance(action, Stop | Destroy) for action in self.actions)

    def by_container(self) -> Mapping[str, Sequence[Action]]:
        """Group the actions by container, in order."""
        names = dict.fromkeys(action.container.name for action in self.actions)
        return {name: [action for action in self.actions if action.container.name == name] for name in names}

    def refuse_unsafe(self) -> None:
        """Raise HomelabError with every refusal, if there are any."""
        if not self.refusals:
            return
        first, *others = self.refusals
        if not others:
            raise HomelabError(first.brief, first.details, first.resolution)
        lines = [f"{refusal.brief}: {refusal.details}\n  {refusal.resolution}" for refusal in self.refusals]
        raise HomelabError(
            f"Cannot apply the plan: {len(self.refusals)} changes are unsafe",
            "\n".join(lines),
            "Nothing has been changed.",
        )
