"""Services of the inventory, and the steps that set them up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from homelab.distributions import Distribution
from homelab.errors import HomelabError
from homelab.host import UNREADABLE, Host, Result, argv
from homelab.model.airflow_objects import AirflowObjects
from homelab.model.backup_hooks import BackupHooks
from homelab.model.container import Container
from homelab.model.endpoints import Endpoint
from homelab.model.inventory import DatabaseGrant, Inventory, Secret, name_without_instance
from homelab.model.object_storage import ObjectStorage
from homelab.model.options import SecretName
from homelab.model.proxmox_token import ProxmoxToken
from homelab.model.secret_store import SecretStore, user_secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceContext:
    """The input from which a service derives its steps."""

    inventory: Inventory
    container: Container
    secret_store: SecretStore
    host_keys: Mapping[str, str]  # container name → its SSH host key line; unknown keys are missing
    failed: Collection[str] = ()  # containers with a failed deploy: no step waits for them
    deploying: Collection[str] = ()  # containers that are deployed in parallel with this one

    def user_secrets(self, names: Iterable[SecretName]) -> Mapping[str, Secret]:
        """Return secrets that the user has set: see `user_secrets`."""
        return user_secrets(self.secret_store, names)

    def wait_deadline(self, container: Container) -> float:
        """Return the seconds to wait for another container: more if it is being deployed at present."""
        return 1800.0 if container.name in self.deploying else 30.0

    def peers(self, service: str, endpoint: str) -> Sequence[tuple[Container, Endpoint]]:
        """Return the containers with an endpoint of a service; empty if the inventory does not have the service."""
        return [
            (container, each)
            for container in self.inventory.containers
            for name, provider in container.services.items()
            if name_without_instance(name) == service
            for each in provider.endpoints()
            if each.name == endpoint
        ]


@dataclass(frozen=True, slots=True)
class Pending:
    """The reason why a step has to be applied; `diff` is a unified diff if a file differs.

    `effect` is that on running services: `live`, `restarts UNIT`, `stops UNIT`, `not checked`, or `refused`. `kept`
    lists the files of a user that the step replaces or removes, and the folder of their copies.
    """

    reason: str
    diff: str = ""
    effect: str = "live"
    kept: str = ""


@dataclass(frozen=True, slots=True, order=True)
class ManagedResource:
    """A resource that a step creates in a container: a `unit` by its name, all others by their absolute path.

    The kinds are `unit`, `file`, `certificate`, `tree`, `venv`, `directory`, `mirror` (apt's source files that name
    one), and `made` (the result of a command).
    """

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Step(ABC):
    """An idempotent step: its probes read the state of a host, `check` decides, and `apply` enforces the state."""

    triggered_by: Sequence[Step] = ()
    part: str = ""  # a failure skips only the steps of the same part, such as the DAGs of one pipeline; "": all steps
    is_wait: ClassVar[bool] = False  # a wait changes nothing
    effect: str = "live"  # on running services, when another step triggers it

    def __str__(self) -> str:
        return self.title

    @property
    @abstractmethod
    def title(self) -> str:
        """The title, unique on its host: `file /etc/x`, `unit airflow-scheduler`."""

    def managed_resources(self) -> Sequence[ManagedResource]:
        """Return the resources that are removed once no step declares them any more; never data."""
        return ()

    @abstractmethod
    def probes(self) -> Sequence[str]:
        """Return shell texts that read the state and change nothing."""

    @abstractmethod
    def check(self, answers: Sequence[Result]) -> Pending | None:
        """Return the reason why the step has to be applied, or None. Depends on the answers only."""

    @abstractmethod
    def apply(self, host: Host) -> None:
        """Enforce the state. Idempotent, and safe to be killed at any point. Raises HomelabError."""

    def not_applied(self, host: Host, pending: Pending) -> HomelabError:
        """Return the error for a step that is pending at the end of the run, although it was applied or up to date."""
        return HomelabError(
            f"Cannot apply `{self.title}` on {host.name}: it is still pending afterwards",
            f"It ran without an error, and the reason remains: {pending.reason}.",
            "Another program may change it at the same time. If not, this is a bug in homelab.",
        )


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a service: one line of text, and facts for `--json`.

    `ready` is True if the service works, even if its last run failed; by default it equals `healthy`.
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
    uses: ClassVar[tuple[str, ...]] = ()  # services that it uses if the inventory has them
    minimum_memory: ClassVar[int] = 0  # MiB, which its container needs for it
    many: ClassVar[bool] = False  # True: several containers may have it
    instances: ClassVar[bool] = False  # True: a container may have several, such as `file_share@photos`
    newest_python: ClassVar[tuple[int, int] | None] = None  # on which it runs; None: any
    reads_published: ClassVar[bool] = False  # True: it reads the published file of every pipeline
    imports_dashboards: ClassVar[bool] = False  # True: it shows the dashboards in the folders of the pipelines
    reads_metrics: ClassVar[bool] = False  # True: it is a client of every endpoint with metrics
    publishes_web_uis: ClassVar[bool] = False  # True: it is the only client of every web UI, which it serves to the LAN
    deploys: ClassVar[bool] = False  # True: its container may log in to all containers as root, with a key of its own
    starts_pipelines: ClassVar[bool] = False  # True: its container starts the pipelines' commands with Airflow's key
    spreads: ClassVar[bool] = False  # True: its containers without a `node:` spread over the Proxmox nodes

    instance: str = ""  # `photos` for `file_share@photos`; part of the names of its units, files and users

    def needed_memory(self) -> int:
        """Return the MiB that its container needs for it with these options."""
        return self.minimum_memory

    def unsupported_options(self, distribution: Distribution) -> Iterable[tuple[str, str]]:
        """Return the options that this distribution does not support, each with the reason and the allowed values."""
        return ()

    def option_errors(self) -> Iterable[tuple[Sequence[str | int], str]]:
        """Return the errors of its options that their types do not find, each with the keys of the value.

        Called when the inventory is read; none by default.
        """
        return ()

    @property
    def web_domain(self) -> str:
        """The domain of the names under which it publishes web UIs; by default, it publishes them on ports."""
        return ""

    def web_pages(self, inventory: Inventory) -> Mapping[str, str]:
        """Return the pages that the start page links, instead of the web UI's root: paths by title; none by default."""
        return {}

    def combination_errors(
        self, services: Mapping[str, Sequence[Service]], neighbours: Collection[str]
    ) -> Iterable[tuple[Sequence[str | int], str]]:
        """Return options that conflict with other `services`, by name, as `option_errors` does; none by default.

        `neighbours` are the names of the other services of its container.
        """
        return ()

    def database_grants(self) -> Sequence[DatabaseGrant]:
        """Return its database grants; none by default."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoints that its clients use; a firewall closes all other ports. None by default."""
        return ()

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return shell texts by name that print metrics in Prometheus' format; none by default.

        On a container with node_exporter, root runs each of them every minute.
        """
        return {}

    def object_storage(self, container: Container, pipeline: str) -> ObjectStorage | None:
        """Return the connection of a pipeline to the object storage that it provides; none by default."""
        return None

    def airflow_objects(self) -> AirflowObjects:
        """Return the connections, variables and pools that it adds to Airflow; none by default."""
        return AirflowObjects()

    def proxmox_tokens(self) -> Sequence[ProxmoxToken]:
        """Return the API tokens of Proxmox that it uses, which `homelab doctor` checks; none by default."""
        return ()

    def stop_seconds(self) -> int:
        """Return the seconds that its container needs for a shutdown; 0 for Proxmox's default."""
        return 0

    def data_folders(self) -> Sequence[str]:
        """Return the folders with its data, which stay until `homelab prune`; none by default."""
        return ()

    def backup_hooks(self) -> BackupHooks:
        """Return the commands around backups and restores of its container; none by default."""
        return BackupHooks()

    def units(self) -> Sequence[str]:
        """Return the systemd units that have to be active; none by default."""
        return ()

    @abstractmethod
    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return the steps for its container, in order."""

    def health_probes(self) -> Sequence[str]:
        """Return shell texts that read the state of the service; by default, the state of its units."""
        return (argv("systemctl", "is-active", *self.units()),) if self.units() else ()

    def health(self, answers: Sequence[Result]) -> Health:
        """Return the health from the answers to its probes; by default, all have to succeed."""
        works = all(each.ok for each in answers)
        output = " ".join(each.text for each in answers if each.text)
        return Health(works, output or ("works" if works else "does not work"))

    def assess(self, answers: Sequence[Result]) -> Health:
        """Return the health, or an unhealthy one if the answers have an unexpected format."""
        try:
            return self.health(answers)
        except UNREADABLE as error:
            return Health(False, f"its report has an unexpected format ({type(error).__name__})")
