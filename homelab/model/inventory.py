"""What the inventory asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from homelab.model.container_config import ContainerConfig

if TYPE_CHECKING:
    from homelab.model.service import Service

Privilege = Literal["own", "append", "read"]
# Clients of a port: the whole subnet, the containers with database grants, or those with a service that requires it.
Audience = Literal["lan", "grantees", "dependents"]


class Secret:
    """A value that never prints itself; `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself: for a file's content or a connection, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where Proxmox answers and how we trust it: by CA file, by SHA-256 fingerprint, or by the system's CAs.

    `parallel` is how many containers Proxmox works on for us at a time. Each create unpacks a template onto the same
    disks and takes the storage's lock, for which a node waits only seconds. Proxmox's HA manager starts 4 at a time.
    """

    host: str
    port: int
    node: str | None
    token_id: str
    token_file: Path
    fingerprint: str | None
    ca_file: Path | None
    max_parallel: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The subnet that the containers live in."""

    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str
    vlan: int | None
    mtu: int | None = None
    nameservers: tuple[IPv4Address, ...]
    searchdomain: str | None
    ssh_allowed_from: tuple[IPv4Network, ...] = ()  # where SSH comes from, through a firewall


@dataclass(frozen=True, slots=True)
class DatabaseGrant:
    """A service's need to reach a database: rows of pg_hba.conf, grants and firewall rules follow from it."""

    database: str
    role: str
    privilege: Privilege


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port of a service, its purpose and its clients; firewall rules are derived from it."""

    port: int
    description: str
    audience: Audience


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A place to observe: by name (`Berlin,DE`), by OpenWeather id, or by coordinates."""

    name: str
    id: int | None = None
    latitude: float | None = None
    longitude: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What the weather pipeline fetches, in which units, how often."""

    cities: tuple[City, ...]
    units: Literal["standard", "metric", "imperial"]
    schedule: str
    api_url: str
    api_key_file: Path
    cities_file: Path | None = None  # instead of `cities`, which are none then
    rate_limit: int = 60  # requests a minute; 0: any number


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """An apt repository beside the distribution's: `suite` ends in `/`, and has no components, where it is a flat one.

    `key` are the packets of the one OpenPGP key that may sign it, checked against the inventory's fingerprint.
    """

    name: str
    uri: str
    suite: str
    components: tuple[str, ...]
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSources:
    """Where the containers get their packages from, beside what their distribution says, and whom they trust."""

    apt_proxy: str | None = None  # as apt-cacher-ng; for plain http, as it cannot look into the rest
    apt_mirror: str | None = None  # instead of the distribution's archive
    apt_security_mirror: str | None = None  # instead of that of its security updates
    repositories: tuple[Repository, ...] = ()
    pypi_index: str | None = None  # instead of PyPI, as devpi: a "simple" index
    certificates: tuple[str, ...] = ()  # CAs, each in PEM
    pins: Mapping[str, str] = field(default_factory=dict)  # Debian package → pattern of its version


def lab_tags(lab: str) -> frozenset[str]:
    """The tags that every container of a lab carries."""
    return frozenset({"homelab", f"homelab-{lab}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of the inventory: its identity, its shape, and the services on it by name."""

    name: str
    vmid: int  # 0: taken from the inventory's range once Proxmox has been asked
    node: str | None
    template: str
    template_storage: str
    storage: str
    shape: ContainerConfig
    services: Mapping[str, Service]
    ssh_keys: tuple[str, ...] = ()  # public keys that may log in as root, beside homelab's own
    backup_storage: str | None = None  # None: the only one of its node that holds backups
    clone_from: str | None = None  # clone the golden container of this one instead of unpacking a template
    lab_tags: frozenset[str]  # the tags by which it is known to be this lab's; its shape may have more

    @property
    def address(self) -> IPv4Address:
        """Its IP address; every container of an inventory has one."""
        if self.shape.address is None:
            raise ValueError(f"{self.name} has no address")
        return self.shape.address.ip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """All that the user asked for. `state_dir` keeps this lab's secrets and pins, beside the file."""

    lab: str
    path: Path
    state_dir: Path
    endpoint: Endpoint
    network: Network
    containers: tuple[Container, ...]
    pipeline: Pipeline
    sources: PackageSources = PackageSources()
    vmid_range: range = range(0)  # where a container's vmid is taken from if the inventory gives it none

    def container_with(self, service: str) -> Container:
        """The container on which a service runs; validation has made sure that there is one."""
        return next(c for c in self.containers if service in c.services)

    def database_grants(self) -> Iterator[tuple[Container, DatabaseGrant]]:
        """Every container's need to reach a database, in inventory order."""
        for container in self.containers:
            for service in container.services.values():
                for access in service.database_grants():
                    yield container, access
