"""Checks of containers to import, and their entries in the inventory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, Literal

from homelab.distributions import DISTRIBUTIONS, distribution_of
from homelab.inventory.container_defaults import HOST_NAME
from homelab.model import DHCP, Container, ContainerConfig, Inventory, Mount, differences
from homelab.plan import ObservedGuest, Refusal
from homelab.proxmox.privileges import adoption, privileges_on, role_line
from homelab.proxmox.property_strings import parse, write
from homelab.roles import CONTAINERS

_LEAST_MEMORY = 128  # MiB
# The optional keys of an entry, in their order.
_ENTRY_KEYS = (
    "swap",
    "disk",
    "mounts",
    "bridge",
    "vlan",
    "mtu",
    "firewall",
    "pool",
    "onboot",
    "start_delay",
    "stop_timeout",
    "protection",
    "features",
    "tags",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A container that can be imported, with its present configuration."""

    guest: ObservedGuest
    shape: ContainerConfig

    @property
    def name(self) -> str:
        """Its name in the inventory, which is the host name."""
        return self.shape.hostname

    def in_(self, inventory: Inventory) -> bool:
        """Return True if the inventory already has its vmid, name and address, from an earlier run."""
        own = (self.guest.vmid, self.name, _address(self.shape))
        return any(own == (each.vmid, each.name, _address(each.shape)) for each in inventory.containers)


def _address(shape: ContainerConfig) -> IPv4Address | Literal["dhcp"] | None:
    return shape.address.ip if isinstance(shape.address, IPv4Interface) else shape.address


def refusals(
    inventory: Inventory, vmid: int, guest: ObservedGuest | None, permissions: Mapping[str, Mapping[str, object]]
) -> Iterator[Refusal]:
    """Yield the reasons why a guest cannot be imported."""
    token = inventory.endpoint.token_id
    grant = f"`{adoption(inventory, vmid)}`"
    if guest is None:
        yield Refusal(
            f"Cannot import {vmid}: it does not exist, or {token} may not see it",
            "Proxmox does not list a guest with this vmid.",
            f"`pct list` on the node lists the containers. If it exists, run {grant} there.",
        )
    elif guest.kind == "qemu":
        yield Refusal(
            f"Cannot import {vmid}: it is a virtual machine",
            f"`{guest.name}` on node {guest.node} is no container, and homelab manages containers only.",
            "Choose a container: `pct list` on the node lists them.",
        )
    elif guest.sealed or guest.shape is None:
        yield Refusal(
            f"Cannot import {vmid}: it is a template",
            f"`{guest.name}` on node {guest.node} cannot run, only be cloned.",
            f"Clone it on the node, `pct clone {vmid} NEW`, and import the clone.",
        )
    else:
        candidate = Candidate(guest, guest.shape)
        yield from _refuse_state(inventory, guest)
        yield from _refuse_shape(inventory, guest, guest.shape)
        if not candidate.in_(inventory):
            yield from _refuse_taken(inventory, candidate)
        if missing := [
            each for each in CONTAINERS.privileges if each not in privileges_on(permissions, f"/vms/{vmid}")
        ]:
            yield Refusal(
                f"Cannot import {vmid}: the token lacks privileges",
                f"{token} lacks {', '.join(missing)} on /vms/{vmid}.",
                f"On the node: `{role_line(CONTAINERS, CONTAINERS.privileges)}`, then {grant}.",
            )


def _refuse_state(inventory: Inventory, guest: ObservedGuest) -> Iterator[Refusal]:
    if guest.lock:
        yield Refusal(
            f"Cannot import {guest.vmid}: it is locked ({guest.lock})",
            f"A task is changing `{guest.name}`, or was interrupted.",
            f"Wait for the end of the task. If none is running: `pct unlock {guest.vmid}` on node {guest.node}.",
        )
    others = sorted(tag for tag in guest.tags if tag.startswith("homelab-") and tag != f"homelab-{inventory.lab}")
    if others:
        yield Refusal(
            f"Cannot import {guest.vmid}: it belongs to another lab",
            f"`{guest.name}` carries the tag {', '.join(others)}.",
            "Keep it in the inventory of that lab. If that no longer exists, remove the tag in Proxmox.",
        )


def _refuse_shape(inventory: Inventory, guest: ObservedGuest, shape: ContainerConfig) -> Iterator[Refusal]:
    vmid = guest.vmid
    if not shape.unprivileged:
        yield Refusal(
            f"Cannot import {vmid}: it is a privileged container",
            f"root in `{guest.name}` is root on node {guest.node}, and homelab manages unprivileged containers only.",
            f"Back it up and restore it on the node with `pct restore {vmid} BACKUP --unprivileged 1`.",
        )
    if not re.fullmatch(HOST_NAME, shape.hostname):
        yield Refusal(
            f"Cannot import {vmid}: its name is not valid in an inventory",
            f"It is `{shape.hostname}`; a name has at most 63 lower-case letters, digits and hyphens.",
            f"On the node: `pct set {vmid} --hostname NAME`.",
        )
    address = _address(shape)
    if address is None or (address != DHCP and address not in inventory.network.subnet):
        yield _no_address(inventory, guest)
    if not shape.disk:
        yield Refusal(
            f"Cannot import {vmid}: its root disk is not supported",
            f"It is `{guest.config.get('rootfs', 'missing')}`; disks are volumes of at least 1 GiB.",
            f"If it is only too small: `pct resize {vmid} rootfs 1G` on the node.",
        )
    if shape.memory < _LEAST_MEMORY:
        yield Refusal(
            f"Cannot import {vmid}: it has too little memory",
            f"It has {shape.memory} MiB; the minimum is {_LEAST_MEMORY} MiB.",
            f"On the node: `pct set {vmid} --memory {_LEAST_MEMORY}`.",
        )


def _no_address(inventory: Inventory, guest: ObservedGuest) -> Refusal:
    network, net0 = inventory.network, str(guest.config.get("net0", ""))
    fixed = write(
        {"name": "eth0", "bridge": network.bridge}
        | parse(net0)
        | {"ip": f"ADDRESS/{network.subnet.prefixlen}", "gw": str(network.gateway)}
    )
    return Refusal(
        f"Cannot import {guest.vmid}: it has neither a fixed address in {network.subnet} nor DHCP",
        f"Its network card is `{net0 or 'missing'}`; the inventory has the address of each container.",
        f"On the node, with an unused address: `pct set {guest.vmid} --net0 {fixed}`.",
    )


def _refuse_taken(inventory: Inventory, candidate: Candidate) -> Iterator[Refusal]:
    vmid, address = candidate.guest.vmid, _address(candidate.shape)
    for container in inventory.containers:
        same = [
            value
            for value, is_taken in (
                (f"vmid {vmid}", container.vmid == vmid),
                (f"name {candidate.name}", container.name == candidate.name),
                (f"address {candidate.shape.address}", address != DHCP and container.known_address == address),
            )
            if is_taken
        ]
        if same:
            yield Refusal(
                f"Cannot import {vmid}: the inventory already has its {' and '.join(same)}",
                f"{container.name} has {f'vmid {container.vmid}' if container.vmid else 'no vmid yet'} and "
                f"{container.shown_address} there; {vmid} is `{candidate.name}` with {candidate.shape.address}.",
                f"Change one of them: {container.name} in {inventory.path.name}, or {vmid} on the node.",
            )


def required_keys(inventory: Inventory, candidate: Candidate) -> dict[str, Any]:
    """Return the keys of every entry: vmid, address (only its last part if that suffices), cores, memory."""
    if (address := _address(candidate.shape)) is None:
        raise ValueError(f"{candidate.name} has no address")
    return {
        "vmid": candidate.guest.vmid,
        "ip": DHCP if address == DHCP else _shortened(address, inventory.network.subnet),
        "cores": candidate.shape.cores,
        "memory": candidate.shape.memory,
    }


def _shortened(address: IPv4Address, subnet: IPv4Network) -> str:
    last = int(address) & 0xFF
    return f".{last}" if int(subnet.network_address) & ~0xFF | last == int(address) else str(address)


def optional_keys(container: Container, candidate: Candidate, several_nodes: bool) -> dict[str, Any]:
    """Return the keys in which a container differs from the defaults of the inventory."""
    guest = candidate.guest
    differing = {each.field: each.found for each in differences(container.shape, candidate.shape)}
    storage = parse(str(guest.config.get("rootfs", ""))).get("", "").partition(":")[0]
    entry = {
        "storage": storage if storage != container.storage else None,
        "node": guest.node if guest.node != container.node and (container.node or several_nodes) else None,
        "template": _template(container, guest),
        **{key: _entry_value(key, differing[key], container) for key in _ENTRY_KEYS if key in differing},
    }
    return {key: value for key, value in entry.items() if value is not None}


def _entry_value(key: str, value: Any, container: Container) -> Any:
    if key == "mounts":
        return {mount.path: _mount(mount, container) for mount in value} or None
    if key == "firewall":
        return None if value else False  # `true` would add homelab's rules, which close open ports
    if key == "tags":
        return sorted(value - container.lab_tags)
    return sorted(value) if isinstance(value, frozenset) else value


def _mount(mount: Mount, container: Container) -> Any:
    more: dict[str, Any] = {} if mount.storage == container.storage else {"storage": mount.storage}
    if not mount.backup:
        more["backup"] = False
    return {"size": mount.size, **more} if more else mount.size


def _template(container: Container, guest: ObservedGuest) -> str | None:
    """Return its template, or one of its distribution; None if that is the default, or unknown."""
    if guest.template:
        distribution = distribution_of(guest.template)
        template = distribution.alias if distribution else guest.template
        return template if template != container.template else None
    fitting = [alias for alias in DISTRIBUTIONS if alias.startswith(f"{guest.config.get('ostype', '')}-")]
    default = distribution_of(container.template)
    return None if not fitting or (default and default.alias in fitting) else fitting[-1]


def remarks(candidate: Candidate, container: Container, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield notes on an entry, to be shown before it is written."""
    name, guest = candidate.name, candidate.guest
    if "cores" not in guest.config:
        yield f"{name} may use all cores of its node; the inventory requires a number and gets that of the node"
    if not guest.template:
        template = f"`template: {entry['template']}`" if "template" in entry else "the default template"
        yield (
            f"Proxmox only knows that the system of {name} is {guest.config.get('ostype', 'unmanaged')}; if {name} is "
            f"ever created again, homelab uses {template}"
        )
    if candidate.shape.firewall and not container.shape.firewall:
        yield (
            f"Proxmox's firewall filters the network card of {name}; `firewall: true` in its entry keeps that, and "
            "adds homelab's own rules"
        )
    if candidate.shape.description:
        yield f"{name} has a description, which `homelab up` replaces: copy it first if you need it"
