"""The registry of services: homelab's own, those of installed packages, and those in `services/` next to the inventory.

A service is loaded when it is first used. A package registers a class under the entry point group `homelab.services`.
A file `services/NAME.py` defines the service NAME; it runs only with the user's approval of its content.
"""

from __future__ import annotations

import inspect
import os
import sys
import types
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from importlib.abc import ExecutionLoader
from importlib.metadata import EntryPoint, entry_points
from importlib.util import decode_source
from pathlib import Path

from homelab import __version__
from homelab.code_approvals import CodeApprovals
from homelab.errors import InputError
from homelab.model import Service
from homelab.model.inventory import name_without_instance

GROUP = "homelab.services"
FOLDER = "services"
_BUILT_IN = {
    "postgres": "Postgres",
    "analytics": "Analytics",
    "ingestion": "Ingestion",
    "airflow": "Airflow",
    "airflow_worker": "AirflowWorker",
    "redis": "Redis",
    "s3": "S3",
    "clickhouse": "ClickHouse",
    "broker": "Broker",
    "consumer": "Consumer",
    "prometheus": "Prometheus",
    "alertmanager": "Alertmanager",
    "alert_bridge": "AlertBridge",
    "node_exporter": "NodeExporter",
    "postgres_exporter": "PostgresExporter",
    "blackbox_exporter": "BlackboxExporter",
    "pve_exporter": "PveExporter",
    "grafana": "Grafana",
    "gateway": "WebGateway",
    "superset": "Superset",
    "metabase": "Metabase",
    "runner": "Runner",
}


class ServiceError(Exception):
    """A service that cannot be used: the cause with the service's origin, and the way out if there is one."""


@dataclass(frozen=True, slots=True)
class ServiceSource:
    """A registered service: its name, its origin, the origin's version if it has one, and the loader of its class."""

    name: str
    origin: str
    version: str
    load: Callable[[], object]


class Registry:
    """All services of one inventory, each by its name."""

    def __init__(self, folder: Path | None = None, approvals: CodeApprovals | None = None) -> None:
        self._folder = folder and folder / FOLDER
        self._approvals = approvals or CodeApprovals.of_user()
        self._loaded: dict[str, type[Service] | ServiceError] = {}

    def add(self, name: str, service: type[Service]) -> None:
        """Register a class of this process under a name."""
        self._loaded[name] = service

    def sources(self) -> list[ServiceSource]:
        """Return all services: built in, then of packages, then local ones; a name may occur more than once."""
        return [*_built_in(), *self._installed, *self._local]

    def names(self) -> list[str]:
        """Return the names of all services."""
        return list(dict.fromkeys([*(source.name for source in self.sources()), *self._loaded]))

    def find(self, name: str) -> type[Service] | None:
        """Return the class of a service; None if no service has this name, or if it cannot be loaded."""
        try:
            return self.get(name)
        except (KeyError, ServiceError):
            return None

    def get(self, name: str) -> type[Service]:
        """Return the class of a service or instance. Raises KeyError for an unknown name, ServiceError if it fails."""
        name = name_without_instance(name)
        if name not in self._loaded:
            sources = self._sources_of(name)
            if not sources:
                raise KeyError(name)
            try:
                self._loaded[name] = _load(sources)
            except ServiceError as error:
                self._loaded[name] = error
        found = self._loaded[name]
        if isinstance(found, ServiceError):
            raise found
        return found

    def start_order(self, name: str, present: Collection[str]) -> int:
        """Return the start order of a container with this service: one more than those that it requires or uses.

        Of the services that it uses, only those that are `present` count. Raises ServiceError for services that need
        each other.
        """
        return self._depth(name, present, ())

    def _depth(self, name: str, present: Collection[str], path: tuple[str, ...]) -> int:
        if name in path:
            circle = " → ".join((*path[path.index(name) :], name))
            raise ServiceError(f"services need each other: {circle}")
        kind = self.find(name)
        needed = (*kind.requires, *(each for each in kind.uses if each in present)) if kind else ()
        return 1 + max((self._depth(each, present, (*path, name)) for each in needed), default=0)

    def _sources_of(self, name: str) -> list[ServiceSource]:
        """Return the sources with a name; packages are searched only if homelab has no such service."""
        found = [source for source in (*_built_in(), *self._local) if source.name == name]
        if name not in _BUILT_IN:
            found += [source for source in self._installed if source.name == name]
        return found

    @cached_property
    def _installed(self) -> Sequence[ServiceSource]:
        return [_installed(entry) for entry in sorted(entry_points(group=GROUP))]

    @cached_property
    def _local(self) -> Sequence[ServiceSource]:
        if self._folder is None or not self._folder.is_dir():
            return ()
        return [self._local_source(path) for path in sorted(self._folder.glob("[!_.]*.py"))]

    def _local_source(self, path: Path) -> ServiceSource:
        return ServiceSource(path.stem, os.path.relpath(path), "", lambda: _run_file(path, self._approvals))


def _built_in() -> Iterator[ServiceSource]:
    for name, kind in _BUILT_IN.items():
        yield ServiceSource(
            name, "homelab", __version__, EntryPoint(name, f"homelab.services.{name}:{kind}", GROUP).load
        )


def _installed(entry: EntryPoint) -> ServiceSource:
    package = entry.dist
    origin, release = (f"package {package.name}", package.version) if package else (entry.value, "")
    return ServiceSource(entry.name, origin, release, entry.load)


def _load(sources: Sequence[ServiceSource]) -> type[Service]:
    source, *others = sources
    if others:
        origins = ", ".join(each.origin for each in sources)
        raise ServiceError(f"the name is used more than once: {origins}; rename one of them, or remove it")
    try:
        kind = source.load()
    except (ServiceError, InputError):
        raise
    except (Exception, SystemExit) as error:  # code of others may raise anything
        raise ServiceError(f"{source.origin} cannot be imported: {type(error).__name__}: {error}") from error
    return _checked(kind, source)


def _checked(kind: object, source: ServiceSource) -> type[Service]:
    """Return the class. Raises ServiceError if it does not have the form of a service."""
    if not (inspect.isclass(kind) and issubclass(kind, Service)):
        raise ServiceError(f"{source.origin} must give a class that derives from homelab.api.Service, not {kind!r}")
    if missing := sorted(kind.__abstractmethods__):
        raise ServiceError(f"{source.origin}: {kind.__name__} lacks {', '.join(f'{each}()' for each in missing)}")
    if not is_dataclass(kind):
        raise ServiceError(f"{source.origin}: {kind.__name__} must be a dataclass; its fields are the options")
    return kind


class _ApprovedLoader(ExecutionLoader):
    """A loader of the content that was approved, without reading the file again."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def get_filename(self, _: str) -> str:
        return str(self._path)

    def get_source(self, _: str) -> str:
        return decode_source(self._content)


def _run_file(path: Path, approvals: CodeApprovals) -> type[Service]:
    """Run a local file, if its content is approved, and return its only service."""
    content = path.read_bytes()
    shown = os.path.relpath(path)
    if not approvals.approves(path, content):
        raise ServiceError(f"{shown} is not approved, or was changed; read it, then run `homelab trust code {shown}`")
    name = f"homelab_local_services.{path.stem}"
    loader = _ApprovedLoader(path, content)
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look up the names of annotations there
    loader.exec_module(module)
    found = [
        each
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, Service) and each.__module__ == name
    ]
    if len(found) != 1:
        raise ServiceError(f"{shown} must define one class that derives from Service, not {len(found)}")
    return found[0]
