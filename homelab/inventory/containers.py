"""`containers:`, each read into its identity, shape and services, and held against the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from homelab.distributions import DISTRIBUTIONS, distribution_of
from homelab.inventory import addresses, service_options
from homelab.inventory.container_defaults import HOST_NAME, ContainerDefaults, container_defaults, mounts
from homelab.inventory.errors import did_you_mean
from homelab.inventory.section import REQUIRED, Section
from homelab.inventory.sections import node
from homelab.model import Container, ContainerConfig, Network, Service, lab_tags
from homelab.services import SERVICES


class Reader:
    """Reads containers one by one and remembers which vmids, addresses and services are taken."""

    def __init__(
        self, lab: str, path: Path, network: Network | None, node: str | None, defaults: ContainerDefaults, vmids: range
    ) -> None:
        self._lab, self._path, self._network, self._node, self._defaults = lab, path, network, node, defaults
        self._vmids = vmids
        self._taken: dict[tuple[str, object], str] = {}
        if network is not None:
            self._taken["ip", network.gateway] = "the gateway"

    def read(self, root: Section) -> Iterator[Container]:
        """The containers without a fault; the faults of the others are recorded."""
        tables = list(root.tables(says="a mapping with vmid, ip, cores, memory, …"))
        if not tables:
            root.fault("must name at least one container")
        for name, table in tables:
            before = len(root.faults.found)
            container = self._container(name, table)
            if container is not None and len(root.faults.found) == before:
                yield container
        self._check_needs(tables)

    def _container(self, name: str, table: Section) -> Container | None:
        if not re.fullmatch(HOST_NAME, name):
            table.fault("the name is also the host name: lower-case letters, digits and hyphens, at most 63")
        vmid = table.whole("vmid", 0 if self._vmids else REQUIRED, low=100, high=999_999_999)
        self._claim(table, name, "vmid", vmid)
        ip = addresses.inside(table, "ip", self._network.subnet if self._network else None)
        self._claim(table, name, "ip", ip)
        cores = table.whole("cores", low=1, high=8192)
        memory = table.whole("memory", low=128, high=1 << 23, unit="MiB")
        where = node(table, self._node)
        place = container_defaults(table, self._defaults)
        if "template" in table.data:
            check_template(table, place.template)
        mounted = mounts(table.table("mounts", required=False, says="sizes in GiB by path"), place.storage)
        services = dict(self._services(name, table.table("services", required=False), place.template))
        table.close()
        if self._network is None or ip is None:
            return None
        shape = replace(
            self._shape(name, self._network, ip, place, services), cores=cores, memory=memory, mounts=mounted
        )
        return Container(
            name=name,
            vmid=vmid,
            node=where,
            template=place.template,
            shape=shape,
            services=services,
            template_storage=place.template_storage,
            storage=place.storage,
            ssh_keys=place.ssh_keys,
            backup_storage=place.backup_storage,
            clone_from=place.clone_from,
            lab_tags=lab_tags(self._lab),
        )

    def _claim(self, table: Section, name: str, key: str, value: object) -> None:
        if not value:
            return
        owner = self._taken.setdefault((key, value), name)
        if owner != name:
            table.fault(f"{value} is taken by {owner}", key)

    def _services(self, name: str, table: Section, template: str | None) -> Iterator[tuple[str, Service]]:
        for key, options_table in table.tables(says="a mapping of options, `{}` if there are none"):
            kind = SERVICES.get(key)
            if kind is None:
                table.fault(f"unknown service; {did_you_mean(key, SERVICES)}", key)
                continue
            owner = self._taken.setdefault(("service", key), name)
            if owner != name and not kind.many:
                table.fault(f"stands at {owner} already, and there can be only one", key)
            service = service_options.read(options_table, kind)
            if service is None:
                continue
            distribution = distribution_of(template or "")
            for option, objection in service.unsupported_options(distribution) if distribution else ():
                options_table.fault(objection, option)
            yield key, service

    def _check_needs(self, tables: list[tuple[str, Section]]) -> None:
        for _, table in tables:
            services = table.data.get("services")
            for key in services if isinstance(services, dict) else ():
                for need in SERVICES[key].requires if key in SERVICES else ():
                    if ("service", need) not in self._taken:
                        table.fault(f"needs the service `{need}`, which no container has", "services", key)

    def _shape(
        self, name: str, network: Network, ip: IPv4Address, place: ContainerDefaults, services: dict[str, Service]
    ) -> ContainerConfig:
        return ContainerConfig(
            hostname=name,
            cores=0,
            memory=0,
            swap=place.swap,
            disk=place.disk,
            bridge=place.bridge,
            address=IPv4Interface((ip, network.subnet.prefixlen)),
            gateway=network.gateway,
            vlan=place.vlan,
            mtu=place.mtu,
            firewall=place.firewall,
            nameservers=network.nameservers,
            searchdomain=network.searchdomain,
            onboot=place.onboot,
            startup_order=max((_order(s) for s in services), default=None),
            start_delay=place.start_delay,
            stop_timeout=place.stop_timeout,
            features=place.features,
            unprivileged=True,
            protection=place.protection,
            pool=place.pool,
            tags=place.tags | lab_tags(self._lab),
            description=description(self._lab, name, self._path),
        )


def vmid_range(table: Section) -> range:
    """`vmid_range:`, the vmids that are taken for containers without one; an empty range where none is given."""
    text = table.text("vmid_range", None, pattern=r"[1-9]\d{2,8}-[1-9]\d{2,8}", says="a range such as 160-199")
    first, _, last = (text or "1-0").partition("-")
    if int(last) < int(first) and text:
        table.fault(f"must be a range such as 160-199, and {first} is more than {last}", "vmid_range")
    return range(int(first), int(last) + 1)


def check_template(table: Section, template: str | None) -> None:
    """Record a template that is neither a known alias nor a volume id."""
    if template is not None and template not in DISTRIBUTIONS and ":vztmpl/" not in template:
        table.fault(
            f"unknown template {template!r}; {did_you_mean(template, DISTRIBUTIONS)}; or a volume id such as "
            "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst",
            "template",
        )


def description(lab: str, name: str, path: Path) -> str:
    """What Proxmox shows beside the container: whose it is, and where changes belong."""
    return (
        f"{name} of the homelab `{lab}`, described in {path.parent.name}/{path.name}.\n\n"
        "Make changes there and run `homelab up`, which puts back what was changed by hand."
    )


def _order(service: str) -> int:
    return 1 + max((_order(need) for need in SERVICES[service].requires), default=0)
