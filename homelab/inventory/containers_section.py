"""`containers:`, each checked alone and against the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Annotated, Any, Literal

from homelab.distributions import distribution_of
from homelab.inventory import addresses
from homelab.inventory.container_defaults import LARGEST, NAME, ContainerDefaults, override
from homelab.inventory.declaration import declaration_of
from homelab.inventory.networks_section import Networks, network_cards
from homelab.inventory.section import Section
from homelab.inventory.service_checks import check_address, check_declarations, check_memory, check_ports
from homelab.inventory.service_options import Services, seconds_to_stop, with_bridge, with_exporters
from homelab.model import DHCP, Container, ContainerConfig, Mount, Network, Service, lab_tags
from homelab.model.inventory import NODE, name_without_instance
from homelab.model.options import KeyNames, Option
from homelab.services.registry import Registry, ServiceError

_FOLDER = r"(?!.*/\.\.(/|$))(/[^/,\s=]+)+"
_VMID = "a whole number from 100 to 999999999"


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultsSection(ContainerDefaults):
    """The keys of `defaults:`."""

    vmid_range: Annotated[
        str | None,
        Option(
            "Range of vmids; a container without a vmid gets the next free one and keeps it.",
            pattern=r"[1-9][0-9]{2,8}-[1-9][0-9]{2,8}",
            expected="a range such as 160-199",
            examples=("160-199",),
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MountSection:
    """The keys of a mount."""

    size: Annotated[
        int, Option("Size of the disk in GiB; it can grow, but not shrink.", low=1, high=LARGEST, unit="GiB")
    ]
    storage: Annotated[
        str | None,
        Option("Storage of the disk; by default, that of the container.", pattern=NAME, expected="a storage's name"),
    ] = None
    backup: Annotated[bool, Option("Include the disk in backups.")] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSection(ContainerDefaults):
    """The keys of a container."""

    vmid: Annotated[
        int | None,
        Option(
            "Identifier of the container in Proxmox; by default, from `defaults.vmid_range`.", low=100, high=999_999_999
        ),
    ] = None
    ip: Annotated[
        str,
        Option("IPv4 address, whole or as its last part (`.67`), or `dhcp`.", examples=(".67", "192.168.2.67", "dhcp")),
        addresses.Address(dhcp=True),
    ]
    ip6: Annotated[str | None, addresses.ipv6_option("as set by hand")] = None
    gw6: Annotated[
        str | None,
        Option(
            "IPv6 gateway, for an address in `ip6`.",
            pattern=addresses.IPV6,
            expected="an IPv6 address",
            examples=("2001:db8::1",),
        ),
    ] = None
    cores: Annotated[int, Option("Number of CPU cores.", low=1, high=8192)]
    memory: Annotated[int, Option("Memory in MiB.", low=128, high=1 << 23, unit="MiB")]
    node: Annotated[
        str | None,
        Option("Node of the container; by default, that of `proxmox:`.", pattern=NODE, expected="a node's name"),
    ] = None
    mounts: Annotated[
        Mapping[
            str,
            Annotated[
                MountSection,
                Option(expected="a size in GiB, or a mapping with size, storage, backup", shorthand="size"),
            ],
        ],
        Option(
            "Further disks, by the path at which they are mounted.",
            expected="sizes in GiB by path",
            keys=KeyNames(_FOLDER, "must be an absolute path, as in /var/lib/postgresql"),
            examples=({"/var/lib/postgresql": 32},),
        ),
    ] = field(default_factory=dict)
    devices: Annotated[
        tuple[Annotated[str, Option(pattern=r"/dev/[^,\s=]+", expected="a device's path")], ...],
        Option(
            "Devices of the node to pass through; `plan` shows the `pct` line, as only root@pam may add them.",
            examples=(["/dev/ttyUSB0"],),
        ),
    ] = ()
    bind_mounts: Annotated[
        Mapping[str, Annotated[str, Option(pattern=_FOLDER, expected="an absolute path on the node")]],
        Option(
            "Folders of the node by the path at which they are mounted; `plan` shows the `pct` line, as for devices.",
            expected="folders of the node by path",
            keys=KeyNames(_FOLDER, "must be an absolute path, as in /srv/media"),
            examples=({"/srv/media": "/tank/media"},),
        ),
    ] = field(default_factory=dict)
    networks: Networks = field(default_factory=dict)
    services: Annotated[
        Mapping[str, Service], Option("Services of the container, each with its options."), Services()
    ] = field(default_factory=dict)


def vmid_range(section: Section, text: str | None) -> range:
    """Parse `vmid_range`; an empty range if there is none."""
    first, _, last = (text or "1-0").partition("-")
    if int(last) < int(first) and text:
        section.problem(f"must be a range such as 160-199, and {first} is more than {last}", "vmid_range")
    return range(int(first), int(last) + 1)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads containers and remembers the vmids, addresses and services that are taken."""

    lab: str
    path: Path
    network: Network | None
    node: str | None
    defaults: ContainerDefaults
    vmids: range
    registry: Registry
    alerts: bool = False  # the inventory has receivers of alerts
    _taken: dict[tuple[str, object], str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)  # services, also those with a problem or misspelt

    def read(self, sections: Mapping[str, Section]) -> list[Container]:
        """Return the containers; those without a valid address are left out."""
        if self.network is not None:
            self._taken["ip", self.network.gateway] = "the gateway"
        names = self.registry.names()
        for key in (key for each in sections.values() for key in each.below("services").data):
            self.declared.update(get_close_matches(name_without_instance(key), names, n=1))
        found = [self._container(name, section) for name, section in sections.items()]
        for section in sections.values():
            self._check_requirements(section)
        return [container for container in found if container is not None]

    def _container(self, name: str, section: Section) -> Container | None:
        values = declaration_of(ContainerSection).read(section)
        if not self.vmids and not section.has("vmid"):
            section.problem(f"is missing: {_VMID}", "vmid")
        self._claim(section, name, "vmid", values.get("vmid"))
        subnet = self.network.subnet if self.network else None
        ip = DHCP if values.get("ip") == DHCP else addresses.host(section, "ip", values.get("ip"), subnet)
        if ip != DHCP:
            self._claim(section, name, "ip", ip)
        ip6, gw6 = addresses.ipv6(section, values.get("ip6"), values.get("gw6"))
        settings = override(self.defaults, section, values)
        networks = network_cards(section, values.get("networks", {}), firewall=settings.firewall)
        for card in networks:
            fixed = IPv4Interface(card.ip).ip if card.ip and card.ip != DHCP else None
            self._claim(section.below("networks", card.option), f"{card.option} of {name}", "ip", fixed)
        services = values.get("services", {})
        if settings.monitoring:
            services = with_exporters(services, self.registry)
        if self.alerts:
            services = with_bridge(services, self.registry)
        self._check_owners(name, section)
        check_declarations(section, services, distribution_of(settings.template))
        check_ports(section, services)
        check_memory(section, services, values.get("memory"))
        check_address(section, services, uses_dhcp=ip == DHCP)
        if self.network is None or ip is None:
            return None
        return Container(
            name=name,
            vmid=values.get("vmid", 0),
            node=values.get("node", None if any(each.spreads for each in services.values()) else self.node),
            template=settings.template,
            shape=replace(
                self._config(name, self.network, ip, settings, self._start_order(section)),
                cores=values.get("cores", 0),
                memory=values.get("memory", 0),
                ip6=ip6,
                gw6=gw6,
                stop_timeout=seconds_to_stop(settings.stop_timeout, services),
                networks=networks,
                mounts=_mounts(values.get("mounts", {}), settings.storage),
            ),
            services=services,
            template_storage=settings.template_storage,
            storage=settings.storage,
            ssh_keys=settings.ssh_keys,
            backup_storage=settings.backup_storage,
            devices=tuple(values.get("devices", ())),
            bind_mounts=values.get("bind_mounts", {}),
            clone_from=settings.clone_from,
            journal_size=settings.journal_size,
            lab_tags=lab_tags(self.lab),
        )

    def _claim(self, section: Section, name: str, key: str, value: object) -> None:
        if value is None:
            return
        owner = self._taken.setdefault((key, value), name)
        if owner != name:
            section.problem(f"{value} is taken by {owner}", key)

    def _check_owners(self, name: str, section: Section) -> None:
        for key in _service_names(section):
            owner = self._taken.setdefault(("service", key), name)
            self._taken[("kind", name_without_instance(key))] = name
            kind = self.registry.find(key)
            if owner != name and kind and not kind.many:
                section.problem(f"is on {owner} already, and there can be only one", "services", key)

    def _check_requirements(self, section: Section) -> None:
        for key in _service_names(section):
            kind = self.registry.find(key)
            for required in kind.requires if kind else ():
                if required not in self.declared:
                    section.problem(f"needs the service `{required}`, which no container has", "services", key)

    def _start_order(self, section: Section) -> int | None:
        """Return the start order: after the containers with services that its services require or use."""
        orders = []
        for key in _service_names(section):
            try:
                orders.append(self.registry.start_order(key, self.declared))
            except ServiceError as error:
                section.problem(str(error), "services", key)
        return max(orders, default=None)

    def _config(
        self,
        name: str,
        network: Network,
        ip: IPv4Address | Literal["dhcp"],
        settings: ContainerDefaults,
        order: int | None,
    ) -> ContainerConfig:
        return ContainerConfig(
            hostname=name,
            cores=0,
            memory=0,
            swap=settings.swap,
            disk=settings.disk,
            bridge=settings.bridge,
            address=DHCP if ip == DHCP else IPv4Interface((ip, network.subnet.prefixlen)),
            gateway=None if ip == DHCP else network.gateway,
            vlan=settings.vlan,
            mtu=settings.mtu,
            firewall=settings.firewall,
            nameservers=network.nameservers,
            searchdomain=network.searchdomain,
            onboot=settings.onboot,
            startup_order=order,
            start_delay=settings.start_delay,
            features=settings.features,
            unprivileged=True,
            protection=settings.protection,
            pool=settings.pool,
            tags=settings.tags | lab_tags(self.lab),
            description=description(self.lab, name, self.path),
        )


def _service_names(section: Section) -> Iterator[str]:
    """Yield the known services of a container, those with invalid options included."""
    return (key for key in section.below("services").data if section.registry.find(key))


def _mounts(sections: Mapping[str, Any], storage: str) -> tuple[Mount, ...]:
    return tuple(
        sorted(
            Mount(path=path, size=each.size or 1, backup=each.backup, storage=each.storage or storage)
            for path, each in sections.items()
        )
    )


def description(lab: str, name: str, path: Path) -> str:
    """Render the notes that Proxmox shows for the container: its lab, and the file to change."""
    return (
        f"{name} of the homelab `{lab}`, described in {path.parent.name}/{path.name}.\n\n"
        "Make changes there and run `homelab up`, which puts back what was changed by hand."
    )
