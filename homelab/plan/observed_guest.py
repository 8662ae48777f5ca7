"""The observed state of a guest on Proxmox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, Literal

from homelab.model import DHCP, Container, ContainerConfig
from homelab.model.firewall import NO_ADDRESS, Firewall


@dataclass(frozen=True, slots=True)
class Usage:
    """A container's resource usage in bytes, that of its cores from 0 to 1, its uptime in seconds; zeros if stopped."""

    cpu: float = 0.0
    memory: int = 0
    memory_total: int = 0
    disk: int = 0
    disk_total: int = 0
    uptime: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedGuest:
    """The observed state of a guest. `shape` is None if the guest is not ours or its creation is unfinished."""

    vmid: int
    name: str
    node: str
    kind: Literal["lxc", "qemu"] = "lxc"
    status: str = "stopped"
    lock: str | None = None
    tags: frozenset[str] = frozenset()
    shape: ContainerConfig | None = None
    live: ContainerConfig | None = None  # `shape` without pending changes
    pending: tuple[str, ...] = ()  # options that wait for the next start
    creator: str | None = None  # for `lock: create`: the token that started the create task
    task: str | None = None  # the UPID of that task, if it still runs
    pool: str | None = None
    template: str | None = None  # the volume id that it was created from, from its description
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)  # including pending changes
    by_hand: tuple[str, ...] = ()  # options that no inventory can express
    sealed: bool = False  # a Proxmox template, which never runs
    unfinished: str | None = None  # for an unfinished clone: the SSH host key of its source, which it still has
    digest: str | None = None
    firewall: Firewall = field(default_factory=Firewall)  # read only if the guest or the inventory has one
    usage: Usage = field(default_factory=Usage, compare=False)
    # Addresses by network card (`net0`), as Proxmox reads them inside a running container; read only with DHCP.
    addresses: Mapping[str, Sequence[IPv4Interface | IPv6Interface]] = field(default_factory=dict, compare=False)

    @property
    def running(self) -> bool:
        """Whether the guest is running."""
        return self.status == "running"

    @property
    def lease(self) -> IPv4Address | None:
        """The address that DHCP has given, as the running container reports it."""
        if self.live is None or self.live.address != DHCP:
            return None
        return next((each.ip for each in self.addresses.get("net0", ()) if isinstance(each, IPv4Interface)), None)

    @property
    def dynamic_addresses(self) -> frozenset[tuple[str, str]]:
        """The addresses by DHCP and SLAAC with their network cards; those of the firewall while it does not run."""
        if self.live is None or not self.running:
            return frozenset(each for each in self.firewall.addresses if each[1] != NO_ADDRESS)
        return frozenset(
            (card, str(each.ip))
            for card, version in self.live.dynamic_addresses
            for each in self._addresses(card, version)
        )

    def _addresses(self, card: str, version: int) -> Sequence[IPv4Interface | IPv6Interface]:
        """Return the addresses of a card: the only one that DHCP gives, or all of IPv6."""
        found = [each for each in self.addresses.get(card, ()) if each.version == version]
        return found[:1] if version == 4 else found

    def belongs_to(self, container: Container) -> bool:
        """Check that this is a container with the tags of the inventory's container, and not a template."""
        return self.kind == "lxc" and not self.sealed and container.lab_tags <= self.tags
