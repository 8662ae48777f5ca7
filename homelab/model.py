"""The frozen types that everything else speaks in: what the inventory wants, and what was found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from homelab.distributions import Distribution
from homelab.host import Host, Result

Privilege = Literal["own", "append", "read"]


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
    """Where Proxmox answers and how we trust it: by CA file, by SHA-256 fingerprint, or by the system's CAs."""

    host: str
    port: int
    node: str | None
    token_id: str
    token_file: Path
    fingerprint: str | None
    ca_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The subnet that the containers live in."""

    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str
    vlan: int | None
    nameservers: tuple[IPv4Address, ...]
    searchdomain: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A container as Proxmox describes it: one type for what is wanted and for what is found."""

    hostname: str
    cores: int
    memory: int  # MiB
    swap: int  # MiB
    disk: int  # GiB
    bridge: str
    address: IPv4Interface | None
    gateway: IPv4Address | None
    vlan: int | None
    nameservers: tuple[IPv4Address, ...]
    searchdomain: str | None
    onboot: bool
    startup_order: int | None
    nesting: bool
    unprivileged: bool
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
    if isinstance(value, frozenset | tuple):
        return ",".join(sorted(str(item) for item in value)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 and "\n" not in text else f"“{text.splitlines()[0][:50]}…”"


def differences(wanted: Shape, found: Shape) -> Iterator[Difference]:
    """The fields in which two shapes differ, in the order of the type."""
    for each in fields(Shape):
        want, have = getattr(wanted, each.name), getattr(found, each.name)
        if want != have:
            yield Difference(each.name, want, have)


@dataclass(frozen=True, slots=True)
class Access:
    """A service's need to reach a database: rows of pg_hba.conf, grants and firewall rules follow from it."""

    database: str
    role: str
    privilege: Privilege


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
    base_url: str
    api_key_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of the inventory: its identity, its shape, and the services on it by name."""

    name: str
    vmid: int
    node: str | None
    template: str
    template_storage: str
    storage: str
    pool: str | None
    shape: Shape
    services: Mapping[str, Service]

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

    def container_with(self, service: str) -> Container:
        """The container on which a service runs; validation has made sure that there is one."""
        return next(c for c in self.containers if service in c.services)

    def accesses(self) -> Iterator[tuple[Container, Access]]:
        """Every container's need to reach a database, in inventory order."""
        for container in self.containers:
            for service in container.services.values():
                for access in service.accesses():
                    yield container, access


class Vault(Protocol):
    """Keeps the secrets: the same name always gives the same value."""

    def secret(self, name: str) -> Secret:
        """The secret of that name, made at the first asking."""

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """An SSH key pair: the private key in OpenSSH's PEM form, and the public key's line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a service may look at while it writes down its steps."""

    inventory: Inventory
    container: Container
    vault: Vault
    host_keys: Mapping[str, str]  # container name → its SSH host key line, as far as known
    failed: Collection[str] = ()  # containers whose deploy has failed by now: nobody waits for them
    deploying: Collection[str] = ()  # containers that are deployed side by side with this one

    def patience(self, container: Container) -> float:
        """How many seconds to wait for what another container's deploy brings: long only if that is going on."""
        return 1800.0 if container.name in self.deploying else 30.0


@dataclass(frozen=True, slots=True)
class Pending:
    """Why a step has something to do, in words; `diff` is a unified diff where a file differs."""

    reason: str
    diff: str = ""


class Step(ABC):
    """One thing that has to be so. It asks probes, says from the answers why it is pending, and applies."""

    watches: Sequence[Step] = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is about, unique on its host: `file /etc/x`, `unit airflow-scheduler`."""

    @abstractmethod
    def probes(self) -> Sequence[str]:
        """Shell texts that read and never change anything."""

    @abstractmethod
    def pending(self, answers: Sequence[Result]) -> Pending | None:
        """Why there is something to do, or None. Pure: it looks at nothing but the answers."""

    @abstractmethod
    def apply(self, host: Host) -> None:
        """Make it so. Idempotent, and safe to be killed at any point. Raises HomelabError."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a service is: one line for people, facts for `--json`."""

    healthy: bool
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Service(ABC):
    """A service of the inventory; the fields of each dataclass below it are its options there."""

    needs: ClassVar[tuple[str, ...]] = ()
    many: ClassVar[bool] = False  # whether it may stand on more than one container

    def objections(self, distribution: Distribution) -> Iterable[tuple[str, str]]:
        """Options that cannot be had on this distribution, each with the reason and what is allowed."""
        return ()

    @abstractmethod
    def accesses(self) -> Sequence[Access]:
        """The databases it has to reach."""

    @abstractmethod
    def units(self) -> Sequence[str]:
        """The systemd units whose health is this service's health."""

    @abstractmethod
    def steps(self, site: Site) -> Sequence[Step]:
        """What has to be so in its container, in order."""

    @abstractmethod
    def health_probes(self) -> Sequence[str]:
        """Shell texts that ask the service how it is."""

    @abstractmethod
    def health(self, answers: Sequence[Result]) -> Health:
        """What the answers to its probes mean. Pure."""
