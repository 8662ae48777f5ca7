"""A container of the inventory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import TYPE_CHECKING

from homelab.errors import HomelabError
from homelab.model.container_config import DHCP, ContainerConfig
from homelab.model.options import Size

if TYPE_CHECKING:
    from homelab.model.service import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A container of the inventory: its identity, its configuration, and its services by name."""

    name: str
    vmid: int  # 0: chosen from the inventory's range when the vmids in use are known
    node: str | None
    template: str
    template_storage: str
    storage: str
    shape: ContainerConfig
    services: Mapping[str, Service]
    ssh_keys: tuple[str, ...] = ()  # public keys that may log in as root, in addition to homelab's own
    backup_storage: str | None = None  # None: the only storage of its node that holds backups
    devices: tuple[str, ...] = ()  # of the node, which only root@pam may pass through
    bind_mounts: Mapping[str, str] = field(default_factory=dict)  # path inside → folder of the node
    clone_from: str | None = None  # a container whose golden container is cloned instead of unpacking a template
    journal_size: Size = Size("500MB")
    lab_tags: frozenset[str]  # tags that mark it as part of this lab; its configuration may have more
    lease: IPv4Address | None = None  # the address that DHCP has given, as Proxmox reports it
    # Addresses by DHCP and SLAAC with their network cards (`net0`), as Proxmox reports them.
    reported: frozenset[tuple[str, str]] = frozenset()

    @property
    def spreads(self) -> bool:
        """True if homelab chooses its node: it has no `node:`, and a service that spreads over the nodes."""
        return self.node is None and any(service.spreads for service in self.services.values())

    @property
    def uses_dhcp(self) -> bool:
        """True if DHCP gives its address."""
        return self.shape.address == DHCP

    @property
    def known_address(self) -> IPv4Address | None:
        """The IP address; None if DHCP gives it, and it was not read from Proxmox yet."""
        return self.shape.address.ip if isinstance(self.shape.address, IPv4Interface) else self.lease

    @property
    def address(self) -> IPv4Address:
        """The IP address. Raises HomelabError if DHCP gives it, and it is not known."""
        if (address := self.known_address) is None:
            raise HomelabError(
                f"Cannot use the address of {self.name}: DHCP has not given it one",
                "It does not run, or waits for the answer of a DHCP server.",
                "Run `homelab up`; `homelab status --json` shows its address.",
            )
        return address

    @property
    def shown_address(self) -> str:
        """The address for people and JSON; `dhcp` if DHCP gives it, and it is not known."""
        return str(self.known_address or DHCP)
