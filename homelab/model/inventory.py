"""The typed contents of an inventory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from homelab.errors import InputError
from homelab.model.airflow_objects import AirflowObjects
from homelab.model.container import Container
from homelab.model.options import Option
from homelab.model.stages import ANALYTICS, STAGES, Stage
from homelab.model.weather_settings import Weather

if TYPE_CHECKING:
    from homelab.model.alert_receivers import Alerts
    from homelab.model.object_storage import ObjectStorage
    from homelab.model.pipelines import Pipeline
    from homelab.model.service import Service

DOMAIN = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
NODE = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
QUALIFIED_NAME = r"[^\s@!:/]+@[A-Za-z][A-Za-z0-9_.-]+![A-Za-z][A-Za-z0-9_.-]*"
Privilege = Literal["own", "append", "read", "monitor"]
DATABASE = "project_data"
WEATHER = "weather"  # the built-in pipeline
RAW = (DATABASE, "raw")  # the database and the schema of its tables


class Secret:
    """A value that is never printed; only `reveal()` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret, for a file's content or a connection, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxmoxApi:
    """The Proxmox VE API: address, credentials and trust; the fields are the keys of `proxmox:`.

    Each creation of a container unpacks a template onto the same disks and takes the storage's lock, for which a node
    waits only seconds: hence `max_parallel`. Proxmox's HA manager starts 4 containers at a time.
    """

    host: Annotated[
        str,
        Option(
            "Host name or address of the Proxmox node.",
            pattern=DOMAIN,
            expected="a host name or an address, without `https://`",
            examples=("192.168.2.10", "pve.home.arpa"),
        ),
    ]
    port: Annotated[int, Option("Port of the Proxmox API.", low=1, high=65535)] = 8006
    node: Annotated[
        str | None, Option("Node of a cluster; by default, the only node.", pattern=NODE, expected="a node's name")
    ] = None
    token_id: Annotated[
        str,
        Option(
            "Name of the API token: user@realm!name.",
            pattern=QUALIFIED_NAME,
            expected="user@realm!name, as in homelab@pve!cli",
            examples=("homelab@pve!cli",),
        ),
    ]
    token_file: Annotated[
        Path, Option("File with the token's secret, mode 0600. The variable HOMELAB_PROXMOX_TOKEN takes precedence.")
    ] = Path(".homelab/proxmox-token")
    fingerprint: Annotated[
        str | None,
        Option(
            "SHA-256 fingerprint of the node's certificate. Without `fingerprint` and `ca_file`, this machine's CAs "
            "decide.",
            pattern=r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2}){31}",
            expected="a SHA-256 fingerprint: 64 hexadecimal digits in pairs, `AA:BB:…`",
        ),
    ] = None
    ca_file: Annotated[Path | None, Option("File with the CA that signed the node's certificate.")] = None
    max_parallel: Annotated[
        int, Option("Number of containers that are created or changed in parallel.", low=1, high=64)
    ] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The subnet of the containers."""

    subnet: IPv4Network
    gateway: IPv4Address
    bridge: str
    vlan: int | None
    mtu: int | None = None
    nameservers: tuple[IPv4Address | IPv6Address, ...]
    searchdomain: str | None
    ssh_allowed_from: tuple[IPv4Network, ...] = ()  # sources of SSH connections that a firewall admits


@dataclass(frozen=True, slots=True)
class DatabaseGrant:
    """Access of a service to a schema of a database; pg_hba.conf, grants and firewall rules are derived from it.

    Without a schema, the role owns the whole database, or monitors the server through it; an owned schema is created.
    """

    database: str
    role: str
    privilege: Privilege
    schema: str = ""

    def __post_init__(self) -> None:
        """Check the combination. Raises ValueError."""
        if self.privilege in ("append", "read") and not self.schema:
            raise ValueError(f"{self.role} needs a schema of {self.database} to {self.privilege}")

    @property
    def target(self) -> str:
        """The database, or the schema with its database: `project_data.raw`."""
        return f"{self.database}.{self.schema}" if self.schema else self.database


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A further apt repository; a flat one has a `suite` that ends in `/`, and no components.

    `key` holds the packets of the only OpenPGP key that may sign it, checked against the inventory's fingerprint.
    """

    name: str
    uri: str
    suite: str
    components: tuple[str, ...]
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSources:
    """Package sources and CAs of the containers, in addition to those of the distribution."""

    apt_proxy: str | None = None  # such as apt-cacher-ng; for plain http only, as it cannot read https
    apt_mirror: str | None = None  # replaces the distribution's archive
    apt_security_mirror: str | None = None  # replaces the archive of its security updates
    repositories: tuple[Repository, ...] = ()
    pypi_index: str | None = None  # a "simple" index that replaces PyPI, such as devpi
    certificates: tuple[str, ...] = ()  # CAs, each in PEM
    pins: Mapping[str, str] = field(default_factory=dict)  # Debian package → pattern of its version
    security_updates: bool = True  # install them unattended
    maintenance_window: str = "04:00"  # the earliest time of day for that, `HH:MM` or `Sun HH:MM`


def name_without_instance(service: str) -> str:
    """Return the name of a service without its instance: `file_share` for `file_share@photos`."""
    return service.partition("@")[0]


def lab_tags(lab: str) -> frozenset[str]:
    """Return the tags of every container of a lab."""
    return frozenset({"homelab", f"homelab-{lab}"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A validated inventory. `state_dir` holds the lab's secrets and pinned host keys, next to the file."""

    lab: str
    path: Path
    state_dir: Path
    endpoint: ProxmoxApi
    network: Network
    containers: tuple[Container, ...]
    weather: Weather | None = None  # settings of the built-in pipeline
    pipelines: tuple[Pipeline, ...] = ()  # the weather first, if the inventory has it
    sources: PackageSources = PackageSources()
    alerts: Alerts | None = None
    vmid_range: range = range(0)  # vmids for containers without one

    def containers_with(self, service: str) -> Sequence[Container]:
        """Return the containers that have a service, or an instance of it; empty if none has it."""
        return [c for c in self.containers if service in map(name_without_instance, c.services)]

    def container_with(self, service: str) -> Container:
        """Return the container that has a service. Raises InputError, which names the service, if none has it."""
        for container in self.containers_with(service):
            return container
        raise InputError(
            f"Cannot use the service `{service}`: no container has it",
            f"{self.path} has no `{service}:` under the `services:` of a container.",
            "Add it there, then run `homelab up` and `homelab deploy`.",
        )

    def container_of(self, stage: Stage) -> Container:
        """Return the container that runs a stage of all pipelines: that of its service, else that of `analytics`.

        Raises InputError if no container has `analytics`.
        """
        return next(iter(self.containers_with(stage)), None) or self.container_with(ANALYTICS)

    def stages_on(self, container: Container) -> Sequence[Stage]:
        """Return the stages of all pipelines that a container runs; none without `analytics`."""
        if not self.containers_with(ANALYTICS):
            return ()
        return [stage for stage in STAGES if self.container_of(stage).name == container.name]

    def services(self) -> Iterator[tuple[Container, Service]]:
        """Yield all services with their containers, in inventory order."""
        for container in self.containers:
            for service in container.services.values():
                yield container, service

    def pipeline(self, name: str) -> Pipeline:
        """Return a pipeline. Raises InputError, which lists the names, for an unknown one."""
        for pipeline in self.pipelines:
            if pipeline.name == name:
                return pipeline
        names = ", ".join(pipeline.name for pipeline in self.pipelines)
        add = f"Write one with `homelab pipeline new {name}`, and add it"
        raise InputError(
            f"Cannot use the pipeline `{name}`: it is missing in the inventory",
            f"Pipelines in the inventory: {names or 'none'}.",
            f"{'Add `weather:` with its `cities`' if name == WEATHER else add} under `pipelines:`.",
        )

    def chosen_pipeline(self, name: str | None) -> Pipeline:
        """Return a pipeline; without a name the only one, or the weather. Raises InputError for a missing one."""
        if name is not None:
            return self.pipeline(name)
        return self.pipelines[0] if len(self.pipelines) == 1 else self.pipeline(WEATHER)

    def database_grants(self) -> Iterator[tuple[Container, DatabaseGrant]]:
        """Yield the database grants of all services and pipelines with their containers, in inventory order.

        Without the weather, there is no schema `raw` that a service could read.
        """
        has_weather = any(pipeline.is_weather for pipeline in self.pipelines)
        for container in self.containers:
            for service in container.services.values():
                for access in service.database_grants():
                    if has_weather or (access.database, access.schema) != RAW:
                        yield container, access
            for pipeline in self.pipelines:
                for stage in self.stages_on(container):
                    for grant in pipeline.grants_of(stage):
                        yield container, grant

    def object_storage(self, pipeline: str) -> ObjectStorage | None:
        """Return the connection of a pipeline to the object storage of the stack, or None if there is none."""
        found = (service.object_storage(container, pipeline) for container, service in self.services())
        return next((storage for storage in found if storage), None)

    def airflow_objects(self) -> Iterator[tuple[str, AirflowObjects]]:
        """Yield the connections, variables and pools of all services and pipelines, each with their owner."""
        yield from airflow_objects(self.containers, self.pipelines)


def airflow_objects(
    containers: Sequence[Container], pipelines: Sequence[Pipeline]
) -> Iterator[tuple[str, AirflowObjects]]:
    """Yield the connections, variables and pools of services and pipelines, each with the text of their owner."""
    for container in containers:
        for name, service in container.services.items():
            yield f"the service `{name}`", service.airflow_objects()
    for pipeline in pipelines:
        yield f"the pipeline `{pipeline.name}`", pipeline.airflow
