"""The configuration of a container in Proxmox, and the differences between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from typing import Literal

from homelab.shortening import shorten

DHCP: Literal["dhcp"] = "dhcp"  # in place of an address
_DYNAMIC = (DHCP, "auto")  # in place of an IPv6 address
_WIDTH = 60  # characters of a value in a plan


@dataclass(frozen=True, slots=True, order=True)
class Mount:
    """A mount point: its path, its size in GiB, and True in `backup` if vzdump includes it.

    `storage` is used at creation only, so a volume that was moved by hand is no difference.
    """

    path: str
    size: int
    backup: bool
    storage: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.path} {self.size} GiB{'' if self.backup else ' without backup'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCard:
    """A further network card. Its `option` in Proxmox is `net1` to `net31`."""

    option: str
    bridge: str
    ip: str | None = None  # `dhcp`, or an address with its prefix length
    ip6: str | None = None  # `auto`, `dhcp`, or an address with its prefix length
    vlan: int | None = None
    mtu: int | None = None  # bytes; None: the bridge's
    firewall: bool = False
    by_hand: tuple[str, ...] = ()  # additions to its property string: `rate=10`

    def __str__(self) -> str:
        words = [self.bridge, self.ip, self.ip6, self.vlan and f"vlan {self.vlan}", self.mtu and f"mtu {self.mtu}"]
        words += ["firewall" if self.firewall else None, *self.by_hand]
        return " ".join(str(word) for word in words if word)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """The configuration of a container in Proxmox, wanted or found."""

    hostname: str
    cores: int
    memory: int  # MiB
    swap: int  # MiB
    disk: int  # GiB
    mounts: tuple[Mount, ...] = ()  # sorted
    bridge: str
    address: IPv4Interface | Literal["dhcp"] | None
    gateway: IPv4Address | None  # None with DHCP, which brings its own
    ip6: str | None = None  # `auto`, `dhcp`, or an address with its prefix length; None: left as it is
    gw6: str | None = None
    vlan: int | None
    mtu: int | None = None  # bytes; None: the bridge's
    firewall: bool = False  # True: Proxmox's firewall filters its network card
    networks: tuple[NetworkCard, ...] = ()  # further ones, sorted by their option
    nameservers: tuple[IPv4Address | IPv6Address, ...]
    searchdomain: str | None
    onboot: bool
    startup_order: int | None
    start_delay: int | None = None  # seconds between its start and the next container's at boot
    stop_timeout: int | None = None  # seconds for its shutdown with the node
    features: frozenset[str] = frozenset({"nesting"})  # `nesting`, `keyctl`, `mount=nfs;cifs`
    unprivileged: bool
    protection: bool = False  # Proxmox refuses to remove it or its disks
    pool: str | None = None
    by_hand: frozenset[str] = frozenset()  # additions to property strings that are ours: `net0 rate=10`
    tags: frozenset[str]
    description: str

    @property
    def bridges(self) -> frozenset[str]:
        """The bridges of all network cards."""
        return frozenset({self.bridge, *(card.bridge for card in self.networks)})

    @property
    def dynamic_addresses(self) -> frozenset[tuple[str, int]]:
        """The network cards (`net0`) with an address by DHCP or SLAAC, each with the version of IP."""
        cards = [("net0", self.address, self.ip6), *((card.option, card.ip, card.ip6) for card in self.networks)]
        return frozenset(
            [(option, 4) for option, ip, _ in cards if ip == DHCP]
            + [(option, 6) for option, _, ip6 in cards if ip6 in _DYNAMIC]
        )

    def value(self, field: str) -> object:
        """Return the value of a field, or the further network card with this option; None if there is none."""
        cards = {card.option: card for card in self.networks}
        return getattr(self, field, None) if field not in cards else cards[field]


@dataclass(frozen=True, slots=True)
class Difference:
    """A field with different wanted and found values."""

    field: str
    wanted: object
    found: object

    def __str__(self) -> str:
        found, wanted = shorten(_plain(self.found), _plain(self.wanted), _WIDTH)
        return f"{self.field}: {found} → {wanted}"


def _plain(value: object) -> str:
    if isinstance(value, frozenset | tuple):  # a tuple's order matters: the first name server is asked first
        items = [str(item) for item in value]
        return ",".join(items if isinstance(value, tuple) else sorted(items)) or "none"
    return "none" if value is None else " ⏎ ".join(filter(None, str(value).splitlines()))


def differences(wanted: ContainerConfig, found: ContainerConfig) -> Iterator[Difference]:
    """Yield the fields in which two configurations differ, in the order of the type."""
    for each in fields(ContainerConfig):
        want, have = getattr(wanted, each.name), getattr(found, each.name)
        if want != have:
            yield Difference(each.name, want, have)
