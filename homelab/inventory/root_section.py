"""The root of the inventory: its sections, and the Inventory that they become."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from homelab.inventory.container_defaults import HOST_NAME, ContainerDefaults, override
from homelab.inventory.containers_section import ContainerSection, DefaultsSection, Reader, vmid_range
from homelab.inventory.declaration import SectionOf, declaration_of
from homelab.inventory.network_section import NetworkSection, network
from homelab.inventory.package_sources import MIRROR_RULE, PackagesSection, package_sources
from homelab.inventory.pipelines_section import Pipelines, read_pipelines
from homelab.inventory.proxmox_section import endpoint
from homelab.inventory.schema_rules import exclusive
from homelab.inventory.section import Section
from homelab.inventory.service_checks import check_combinations, check_gateway, check_parts
from homelab.inventory.service_options import SENDERS
from homelab.inventory.weather_section import weather
from homelab.model import Alerts, Container, Inventory, ProxmoxApi
from homelab.model.alert_receivers import BRIDGE
from homelab.model.inventory import WEATHER
from homelab.model.options import KeyNames, Option
from homelab.private_files import STATE_FOLDER

BROKER = "broker"
_SECTION = "a mapping, as in the commented example that `homelab init` writes"
_LAB = "the lab's name: lower-case letters, digits and hyphens, at most 32; not `golden`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The keys of an inventory."""

    lab: Annotated[
        str,
        Option(
            "Name of the lab. Its containers carry the tags `homelab` and `homelab-<lab>`.",
            pattern=r"(?!golden$)[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",  # homelab-golden is a tag
            expected=_LAB,
            examples=("home",),
        ),
    ]
    proxmox: Annotated[
        Section,
        Option("Connection to the Proxmox VE API."),
        SectionOf(ProxmoxApi, _SECTION, exclusive("fingerprint", "ca_file")),
    ]
    network: Annotated[Section, Option("Subnet of the containers."), SectionOf(NetworkSection, _SECTION)]
    defaults: Annotated[Section | None, Option("Defaults of all containers."), SectionOf(DefaultsSection, _SECTION)] = (
        None
    )
    containers: Annotated[
        Mapping[str, Annotated[Section, SectionOf(ContainerSection, "a mapping with vmid, ip, cores, memory, …")]],
        Option(
            "Containers by host name.",
            expected=_SECTION,
            empty="must name at least one container",
            keys=KeyNames(
                HOST_NAME, "the name is also the host name: lower-case letters, digits and hyphens, at most 63"
            ),
        ),
    ]
    pipelines: Annotated[Section | None, Option("Pipelines by name: the weather, and your own."), Pipelines()] = None
    packages: Annotated[
        Section | None,
        Option("Package sources of the containers, in addition to those of the distribution, and security updates."),
        SectionOf(PackagesSection, _SECTION, MIRROR_RULE),
    ] = None
    alerts: Annotated[Alerts | None, Option("Receivers of the messages about incidents.", expected=_SECTION)] = None


def read(path: Path, root: Section) -> Inventory:
    """Return the inventory. Raises InputError with all problems."""
    found = declaration_of(Root).read(root)
    lab = found.get("lab", "lab")
    proxmox = endpoint(found["proxmox"]) if "proxmox" in found else None
    subnet = network(found["network"]) if "network" in found else None
    defaults_section = found.get("defaults", root.below("defaults"))
    given = declaration_of(DefaultsSection).read(defaults_section)
    defaults = override(ContainerDefaults.on(subnet), defaults_section, given)
    vmids = vmid_range(defaults_section, given.get("vmid_range"))
    node = proxmox.node if proxmox else None
    reader = Reader(lab, path, subnet, node, defaults, vmids, root.registry, alerts=root.has("alerts"))
    sections = found.get("containers", {})
    containers, services = reader.read(sections), reader.declared
    if not root.problems.found:  # the endpoints of a faulty service cannot be read
        check_combinations(sections, containers)
        check_gateway(sections, containers)
        check_parts(sections, containers)
    if sections:
        _check_bridges(root, containers, services)
    pipelines = found.get("pipelines", root.below("pipelines"))
    has_weather = isinstance(pipelines.data.get(WEATHER), dict)
    built_in = weather(pipelines.below(WEATHER)) if has_weather else None
    if built_in and built_in.archive_months and not root.problems.found:
        _check_archive(pipelines.below(WEATHER), containers)
    if built_in and built_in.to == BROKER and sections:
        _check_broker(pipelines.below(WEATHER), services)
    if built_in and built_in.stream and built_in.stream.build_every and sections:
        _check_on_data(pipelines.below(WEATHER), containers, services)
    all_pipelines = read_pipelines(pipelines, containers, built_in, services)
    packages = package_sources(found.get("packages", root.below("packages")), [c.template for c in containers])
    if root.problems.found or proxmox is None or subnet is None:
        root.problems.raise_all(path)
    return Inventory(
        lab=lab,
        path=path,
        state_dir=path.parent / STATE_FOLDER / lab,
        endpoint=proxmox,
        network=subnet,
        containers=tuple(containers),
        weather=built_in,
        pipelines=all_pipelines,
        vmid_range=vmids,
        sources=packages,
        alerts=found.get("alerts"),
    )


def _check_archive(section: Section, containers: Sequence[Container]) -> None:
    """Add a problem if old months have no object storage to move to, or if something else would remove them."""
    services = [(container, service) for container in containers for service in container.services.values()]
    places = {name: container.name for container in containers for name in container.services}
    if not any(service.object_storage(container, WEATHER) for container, service in services):
        section.problem("needs object storage: a container with the service `s3`", "archive_months")
    if "ingestion" in places and places["ingestion"] != places.get("analytics"):
        section.problem("needs `ingestion` and `analytics` on the same container", "archive_months")
    if any(getattr(service, "retention_months", 0) for _, service in services):
        section.problem("`retention_months` of `postgres` would delete months: keep one of both", "archive_months")


def _check_broker(section: Section, services: Collection[str]) -> None:
    """Add a problem for an ingestion to a broker that is missing, or that has no consumer."""
    for needed in (BROKER, "consumer"):
        if needed not in services:
            section.problem(f"needs the service `{needed}`, which no container has: add it, or write `postgres`", "to")


def _check_on_data(section: Section, containers: Sequence[Container], services: Collection[str]) -> None:
    """Add a problem for builds after new rows without an Airflow that has assets."""
    found = [service for container in containers for name, service in container.services.items() if name == "airflow"]
    if "airflow" not in services:
        section.problem("needs the service `airflow`, which starts the builds: add it, or write `stream`", "schedule")
    elif any(getattr(service, "version", "") == "2.11" for service in found):
        section.problem('needs `version: "3.3"` of `airflow`, as 2.11 has no assets; or write `stream`', "schedule")


def _check_bridges(root: Section, containers: Sequence[Container], services: Collection[str]) -> None:
    """Add a problem for receivers without a container that sends, and for such a container without receivers."""
    if root.has("alerts") and not (SENDERS | {BRIDGE}) & {*services}:
        root.problem("needs a container that sends: one with the service `alertmanager` or `analytics`", "alerts")
    if not root.has("alerts"):
        for container in containers:
            if BRIDGE in container.services:
                root.problem("needs the receivers in `alerts:`", "containers", container.name, "services", BRIDGE)
