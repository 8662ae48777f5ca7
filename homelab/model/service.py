"""A service of the inventory, and the steps that bring it about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from homelab.distributions import Distribution
from homelab.host import Host, Result
from homelab.model.inventory import Container, DatabaseGrant, Inventory, Port, Secret


class SecretStore(Protocol):
    """Keeps the secrets: the same name always gives the same value."""

    def secret(self, name: str) -> Secret:
        """The secret of that name, made at the first asking."""

    def set(self, name: str, value: str) -> None:
        """Store a secret, replacing one of the same name."""

    def names(self) -> list[str]:
        """Return the names of the existing secrets, sorted."""

    def key_pair(self, name: str) -> tuple[Secret, str]:
        """Return an SSH key pair, made at the first call: private key (OpenSSH's PEM form), public key line."""

    def key_path(self, name: str) -> Path:
        """Return the file of a private key, for programs such as ssh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """What a service may look at while it writes down its steps."""

    inventory: Inventory
    container: Container
    secret_store: SecretStore
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


@dataclass(frozen=True, slots=True, order=True)
class ManagedResource:
    """What a step leaves in a container: a `unit` by its name, all else by its absolute path.

    It is a `file`, `certificate`, `tree`, `venv` or `directory`, a file of apt's that names a `mirror`, or something
    that a command has `made`.
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Step(ABC):
    """One thing that has to be so. It asks probes, says from the answers why it is pending, and applies."""

    triggered_by: Sequence[Step] = ()
    waits: ClassVar[bool] = False  # whether it only waits for something, and changes nothing

    def __str__(self) -> str:
        return self.title

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is about, unique on its host: `file /etc/x`, `unit airflow-scheduler`."""

    def managed_resources(self) -> Sequence[ManagedResource]:
        """What is removed again once no step wants it any more; never data."""
        return ()

    @abstractmethod
    def probes(self) -> Sequence[str]:
        """Shell texts that read and never change anything."""

    @abstractmethod
    def check(self, answers: Sequence[Result]) -> Pending | None:
        """Why there is something to do, or None. Pure: it looks at nothing but the answers."""

    @abstractmethod
    def apply(self, host: Host) -> None:
        """Make it so. Idempotent, and safe to be killed at any point. Raises HomelabError."""


@dataclass(frozen=True, slots=True)
class Health:
    """A service's health: one line for people, facts for `--json`.

    `ready`: the service does its work, even if its last run failed; equals `healthy` unless given.
    """

    healthy: bool
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = None  # type: ignore[assignment]  # set below

    def __post_init__(self) -> None:
        if self.ready is None:
            object.__setattr__(self, "ready", self.healthy)


class Service(ABC):
    """A service of the inventory; the fields of its dataclass are its options: see homelab.model.options."""

    requires: ClassVar[tuple[str, ...]] = ()
    many: ClassVar[bool] = False  # whether it may stand on more than one container

    def unsupported_options(self, distribution: Distribution) -> Iterable[tuple[str, str]]:
        """Options that cannot be had on this distribution, each with the reason and what is allowed."""
        return ()

    @abstractmethod
    def database_grants(self) -> Sequence[DatabaseGrant]:
        """The databases it has to reach."""

    @abstractmethod
    def ports(self) -> Sequence[Port]:
        """The ports that others have to reach it on; a firewall lets nobody else in."""

    @abstractmethod
    def units(self) -> Sequence[str]:
        """The systemd units whose health is this service's health."""

    @abstractmethod
    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """What has to be so in its container, in order."""

    @abstractmethod
    def health_probes(self) -> Sequence[str]:
        """Shell texts that ask the service how it is."""

    @abstractmethod
    def health(self, answers: Sequence[Result]) -> Health:
        """What the answers to its probes mean. Pure."""
