"""A container as Proxmox describes it, and in what two of them differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Interface, IPv6Address


@dataclass(frozen=True, slots=True, order=True)
class Mount:
    """A mount point: where it is mounted, its size in GiB, and whether vzdump takes it along.

    `storage` decides at creation only, so a volume that was moved by hand is no difference.
    """

    path: str
    size: int
    backup: bool
    storage: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.path} {self.size} GiB{'' if self.backup else ' without backup'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """A container as Proxmox describes it: one type for what is wanted and for what is found."""

    hostname: str
    cores: int
    memory: int  # MiB
    swap: int  # MiB
    disk: int  # GiB
    mounts: tuple[Mount, ...] = ()  # sorted
    bridge: str
    address: IPv4Interface | None
    gateway: IPv4Address | None
    vlan: int | None
    mtu: int | None = None  # bytes; None: the bridge's
    firewall: bool = False  # whether Proxmox's firewall stands before its network card
    nameservers: tuple[IPv4Address | IPv6Address, ...]
    searchdomain: str | None
    onboot: bool
    startup_order: int | None
    start_delay: int | None = None  # seconds that the node waits after its start before it starts the next one
    stop_timeout: int | None = None  # seconds that it has to shut down with the node
    features: frozenset[str] = frozenset({"nesting"})  # `nesting`, `keyctl`, `mount=nfs;cifs`
    unprivileged: bool
    protection: bool = False  # Proxmox refuses to remove it, or a disk of it
    pool: str | None = None
    by_hand: frozenset[str] = frozenset()  # what was added to a property string that is ours: `net0 rate=10`
    tags: frozenset[str]
    description: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One field whose wanted and found values differ."""

    field: str
    wanted: object
    found: object

    def __str__(self) -> str:
        return f"{self.field}: {_plain(self.found)} → {_plain(self.wanted)}"


def _plain(value: object) -> str:
    if isinstance(value, frozenset | tuple):  # a tuple's order matters: the first name server is asked first
        items = [str(item) for item in value]
        return ",".join(items if isinstance(value, tuple) else sorted(items)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 and "\n" not in text else f"“{text.splitlines()[0][:50]}…”"


def differences(wanted: ContainerConfig, found: ContainerConfig) -> Iterator[Difference]:
    """The fields in which two shapes differ, in the order of the type."""
    for each in fields(ContainerConfig):
        want, have = getattr(wanted, each.name), getattr(found, each.name)
        if want != have:
            yield Difference(each.name, want, have)
