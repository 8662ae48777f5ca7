"""Checks of a container's services: their declarations, ports, and the memory and address that they need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from homelab.distributions import Distribution
from homelab.inventory.declaration import declaration_of, field_name
from homelab.inventory.section import Section
from homelab.model import Container, Service
from homelab.model.endpoints import LAST_PORT, SSH_PORT
from homelab.model.inventory import name_without_instance
from homelab.model.options import Size
from homelab.model.web_uis import OFFSET, domain_of, gateway_of, published_web_uis, web_uis

T = TypeVar("T")


def check_declarations(section: Section, services: Mapping[str, Service], distribution: Distribution | None) -> None:
    """Add a problem for services and options that the distribution does not support, and for declarations that fail."""
    for name, service in services.items():
        _declared(section, name, service.database_grants)
        for keys, error in _declared(section, name, service.option_errors):
            section.problem(error, "services", name, *keys)
        if distribution:
            if service.newest_python and distribution.python > service.newest_python:
                section.problem(_python_too_new(service.newest_python, distribution), "services", name)
            for option, error in _declared(section, name, service.unsupported_options, distribution):
                section.problem(error, "services", name, option)


def _python_too_new(newest: tuple[int, int], distribution: Distribution) -> str:
    found, supported = (".".join(map(str, version)) for version in (distribution.python, newest))
    return f"runs on Python up to {supported}, and {distribution.alias} has {found}: use another template"


def check_combinations(sections: Mapping[str, Section], containers: Sequence[Container]) -> None:
    """Add a problem for each option that does not fit the other services of the inventory."""
    services: dict[str, list[Service]] = {}
    for container in containers:
        for name, service in container.services.items():
            services.setdefault(name_without_instance(name), []).append(service)
    for container in containers:
        for name, service in container.services.items():
            section, neighbours = sections[container.name], [each for each in container.services if each != name]
            for keys, error in _declared(section, name, service.combination_errors, services, neighbours):
                section.problem(error, "services", name, *keys)


def check_ports(section: Section, services: Mapping[str, Service]) -> None:
    """Add a problem for each port that several services of a container provide."""
    taken: dict[int, str] = {}
    for name, service in services.items():
        for endpoint in _declared(section, name, service.endpoints):
            owner = taken.setdefault(endpoint.port, name)
            if owner != name and endpoint.port != SSH_PORT:
                problem = f"provides port {endpoint.port}, as {owner} does on the same container"
                section.problem(problem, "services", name)


def check_memory(section: Section, services: Mapping[str, Service], memory: int | None) -> None:
    """Add a problem if a container has less memory than its services need."""
    needs = {name: service.needed_memory() for name, service in services.items() if service.needed_memory()}
    if memory is not None and memory < sum(needs.values()):
        each = ", ".join(f"{name} {least}" for name, least in needs.items())
        section.problem(f"must be at least {sum(needs.values())} MiB for its services ({each})", "memory")


def check_parts(sections: Mapping[str, Section], containers: Sequence[Container]) -> None:
    """Add a problem for each given size of memory or disk that is larger than that of its container."""
    for container in containers:
        for name, service in container.services.items():
            section = sections[container.name].below("services", name)
            for key in declaration_of(type(service)).keys.values():
                if key.option.part_of and section.has(key.name):
                    size = getattr(service, field_name(key.name))
                    if error := _part_error(container, key.option.part_of, size):
                        section.problem(error, key.name)


def _part_error(container: Container, whole: str, size: Size) -> str:
    """Return the reason why a size does not fit into the memory or the disk of a container, or ""."""
    shape = container.shape
    if whole == "memory":
        mebibytes = shape.memory
    elif container.bind_mounts:
        return ""  # their size is not known
    else:
        mebibytes = 1024 * (shape.disk + sum(mount.size for mount in shape.mounts))
    there = f"{mebibytes} MiB" if mebibytes % 1024 else f"{mebibytes // 1024} GiB"
    return f"must be at most the {whole} of {container.name}, {there}" if size.bytes > mebibytes << 20 else ""


def check_address(section: Section, services: Mapping[str, Service], *, uses_dhcp: bool) -> None:
    """Add a problem for a service that deploys from an address of DHCP: all containers admit it from its address."""
    for name, service in services.items():
        if uses_dhcp and service.deploys:
            section.problem(f"must be an address, and not `dhcp`: every container admits `{name}` only from it", "ip")


def _declared(section: Section, name: str, declaration: Callable[..., Iterable[T]], *arguments: object) -> Sequence[T]:
    try:
        return list(declaration(*arguments))
    except Exception as error:  # noqa: BLE001 - code of others may raise anything
        text = f"cannot be used: {declaration.__name__}() raised {type(error).__name__}: {error}"
        section.problem(text, "services", name)
        return ()


def check_gateway(sections: Mapping[str, Section], containers: Sequence[Container]) -> None:
    """Add a problem for each web UI if its name or port of the gateway does not exist, or is taken."""
    if domain_of(containers):
        _check_names(sections, containers)
    else:
        _check_ports(sections, containers)


def _check_names(sections: Mapping[str, Section], containers: Sequence[Container]) -> None:
    taken = {
        f"{container.name}.{container.shape.searchdomain}".lower(): f"the container {container.name}"
        for container in containers
        if container.shape.searchdomain
    }
    for ui in web_uis(containers):
        if owner := taken.get(ui.name):
            problem = f"has a web UI with the name {ui.name}, which {owner} already has"
            sections[ui.container.name].problem(problem, "services", ui.service)
        taken[ui.name] = f"{ui.service} of {ui.container.name}"


def _check_ports(sections: Mapping[str, Section], containers: Sequence[Container]) -> None:
    """Add a problem for each web UI whose port of the gateway does not exist, or is taken.

    Other web UIs and the services on the gateway's own container may have it.
    """
    taken = {
        endpoint.port: f"{name} of {gateway.name} provides it itself"
        for gateway in filter(None, [gateway_of(containers)])
        for name, service in gateway.services.items()
        for endpoint in service.endpoints()
    }
    for ui in published_web_uis(containers):
        section = sections[ui.container.name]
        published = f"has a web UI on port {ui.endpoint.port}"
        if ui.port > LAST_PORT:
            problem = f"{published}: the gateway serves ports up to {LAST_PORT - OFFSET}"
            section.problem(problem, "services", ui.service)
        elif owner := taken.get(ui.port):
            problem = f"{published}, which is port {ui.port} of the gateway: {owner}"
            section.problem(problem, "services", ui.service)
        taken[ui.port] = f"it is that of {ui.service} of {ui.container.name}"
