"""A guest as Proxmox has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from homelab.model import Container, ContainerConfig
from homelab.model.firewall import Firewall


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses: bytes, and seconds since its start; zeros while it is down."""

    memory: int = 0
    memory_total: int = 0
    disk: int = 0
    disk_total: int = 0
    uptime: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedGuest:
    """A guest as Proxmox has it. `shape` is None for one that is not ours, or only half made."""

    vmid: int
    name: str
    node: str
    kind: Literal["lxc", "qemu"] = "lxc"
    status: str = "stopped"
    lock: str | None = None
    tags: frozenset[str] = frozenset()
    shape: ContainerConfig | None = None
    pending: tuple[str, ...] = ()  # options that wait for the next start
    creator: str | None = None  # the token whose create task left or still runs it, for `lock: create`
    task: str | None = None  # that task, if it still runs
    pool: str | None = None
    template: str | None = None  # the volume id that it was made from, as its description says
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)  # as it will be after the next start
    by_hand: tuple[str, ...] = ()  # what it has that no inventory speaks of
    sealed: bool = False  # a Proxmox template, which never runs
    unfinished: str | None = None  # the SSH host key of what it was cloned from, while it has none of its own
    digest: str | None = None
    firewall: Firewall = field(default_factory=Firewall)  # looked at only where there is or should be one
    usage: Usage = field(default_factory=Usage, compare=False)

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self.status == "running"

    def belongs_to(self, container: Container) -> bool:
        """Whether it carries the tags of the container's lab."""
        return self.kind == "lxc" and not self.sealed and container.lab_tags <= self.tags
