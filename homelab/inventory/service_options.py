"""`services:` of a container: each service by its name, with its options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from homelab.inventory.declaration import declaration_of
from homelab.inventory.errors import did_you_mean
from homelab.inventory.section import Section
from homelab.inventory.value_types import ValueType, nullable, shown
from homelab.inventory.yaml_source import KeyPath
from homelab.model import Service
from homelab.model.alert_receivers import BRIDGE
from homelab.model.inventory import name_without_instance
from homelab.model.stages import ANALYTICS
from homelab.services.registry import Registry, ServiceError

_INSTANCE = "[a-z0-9][a-z0-9-]{0,30}"


class Services(ValueType):
    """A mapping of the services' names to their options, which the dataclass of each service declares."""

    def __init__(self) -> None:
        super().__init__("a mapping of services, each with its options")

    def accepts(self, value: object) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, section, at)
        found = {}
        for name, options in value.items():
            kind = _find(section, name, at)
            if kind is None:
                continue
            if not isinstance(options, dict | None):
                section.problem(
                    f"must be a mapping of options, `{{}}` if there are none, not {shown(options)}", *at, name
                )
            else:
                service = read_options(section.below(*at, name), kind)
                if service is not None:
                    if instance := name.partition("@")[2]:
                        object.__setattr__(service, "instance", instance)
                    found[name] = service
        return found

    def schema(self) -> Mapping[str, Any]:
        return {"type": "object"}  # completed by `services_schema`: an inventory has its own services


def _find(section: Section, name: str, at: KeyPath) -> type[Service] | None:
    """Return the class of a service; None if a problem was recorded."""
    try:
        kind = section.registry.get(name)
        declaration_of(kind)
        if "@" in name and not kind.instances:
            section.problem(f"has no instances; write `{name_without_instance(name)}`", *at, name)
            return None
        if "@" in name and not re.fullmatch(_INSTANCE, name.partition("@")[2]):
            section.problem("must have an instance of small letters, digits and `-`", *at, name)
            return None
    except KeyError:
        section.problem(f"unknown service; {did_you_mean(name, section.registry.names())}", *at, name)
    except (ServiceError, TypeError) as error:
        section.problem(f"cannot be loaded: {error}", *at, name)
    else:
        return kind
    return None


def with_exporters(services: Mapping[str, Service], registry: Registry) -> Mapping[str, Service]:
    """Return the services of a container with those that `monitoring: true` adds, unless it has them.

    node_exporter comes first: otherwise, Prometheus reports a container as down until its other services are installed.
    """

    def missing(name: str) -> Mapping[str, Service]:
        return {} if name in services else {name: registry.get(name)()}

    return {**missing("node_exporter"), **services, **(missing("postgres_exporter") if "postgres" in services else {})}


SENDERS = frozenset({"alertmanager", ANALYTICS})  # services to which `alerts:` adds the one that sends


def with_bridge(services: Mapping[str, Service], registry: Registry) -> Mapping[str, Service]:
    """Return the services of a container with the one that `alerts:` adds to Alertmanager and to the pipelines."""
    if SENDERS & services.keys():
        return {**services, BRIDGE: services.get(BRIDGE) or registry.get(BRIDGE)()}
    return services


def seconds_to_stop(given: int | None, services: Mapping[str, Service]) -> int | None:
    """Return the seconds for a shutdown of a container: the value of the inventory, or the maximum of its services."""
    needed = max((service.stop_seconds() for service in services.values()), default=0)
    return given if given is not None else needed or None


def services_schema(registry: Registry) -> dict[str, Any]:
    """Return the part of the JSON Schema that names the services; one that cannot be loaded may have any options."""
    kinds = {name: registry.find(name) for name in registry.names()}
    with_instances = {f"^{name}@{_INSTANCE}$": kind for name, kind in kinds.items() if kind and kind.instances}
    return {
        "properties": {name: options_schema(kind) if kind else {} for name, kind in kinds.items()},
        **({"patternProperties": {n: options_schema(k) for n, k in with_instances.items()}} if with_instances else {}),
        "additionalProperties": False,
    }


def read_options(section: Section, service: type[Service]) -> Service | None:
    """Return the service with its options; None if a problem was recorded."""
    before = len(section.problems.found)
    built = declaration_of(service).build(section)
    return built if len(section.problems.found) == before else None


def options_schema(service: type[Service]) -> dict[str, Any]:
    """Return the JSON Schema of a service's options; null counts as no options, unless one is required."""
    declaration = declaration_of(service)
    schema = declaration.json_schema()
    doc = service.__doc__ or ""
    if doc.startswith(f"{service.__name__}("):  # which dataclass() writes if there is none
        doc = ""
    description = " ".join(doc.partition("\n\n")[0].split()) or f"Options of {service.__name__}."
    return {"description": description} | (schema if "required" in schema else nullable(schema))
