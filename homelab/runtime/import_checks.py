"""Which containers can be imported, and what the inventory says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from homelab.distributions import DISTRIBUTIONS, distribution_of
from homelab.inventory.container_defaults import HOST_NAME
from homelab.model import Container, ContainerConfig, Inventory, Mount, differences
from homelab.plan import ObservedGuest, Refusal
from homelab.proxmox.privileges import adoption, privileges_on, role_line
from homelab.proxmox.properties import parse, write
from homelab.roles import CONTAINERS

_LEAST_MEMORY = 128  # MiB
# The keys of an entry, in their order.
_SAID = (
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
    """A container that can be imported, with its shape as it was found."""

    there: ObservedGuest
    shape: ContainerConfig

    @property
    def name(self) -> str:
        """Its name in the inventory: the host name."""
        return self.shape.hostname

    def in_(self, inventory: Inventory) -> bool:
        """Whether an earlier run has written it there already: the vmid, the name and the address are its."""
        address = self.shape.address
        return address is not None and any(
            (container.vmid, container.name, container.address) == (self.there.vmid, self.name, address.ip)
            for container in inventory.containers
        )


def refusals(
    inventory: Inventory, vmid: int, there: ObservedGuest | None, permissions: Mapping[str, Mapping[str, object]]
) -> Iterator[Refusal]:
    """Why a guest cannot be imported; nothing if it can."""
    token = inventory.endpoint.token_id
    grant = f"`{adoption(inventory, vmid)}`"
    if there is None:
        yield Refusal(
            f"There is no guest {vmid}",
            f"Or {token} may not see it.",
            f"`pct list` on the node shows what is there. If it is: {grant}.",
        )
    elif there.kind == "qemu":
        yield Refusal(
            f"{vmid} is a virtual machine",
            f"`{there.name}` on node {there.node} is no container, and homelab manages nothing else.",
            "Name a container: `pct list` on the node shows them.",
        )
    elif there.sealed or there.shape is None:
        yield Refusal(
            f"{vmid} is a template",
            f"`{there.name}` on node {there.node} cannot run, only be cloned.",
            f"Clone it on the node, `pct clone {vmid} NEW`, and import the clone.",
        )
    else:
        candidate = Candidate(there, there.shape)
        yield from _refuse_state(inventory, there)
        yield from _refuse_shape(inventory, there, there.shape)
        if not candidate.in_(inventory):
            yield from _refuse_taken(inventory, candidate)
        if lacking := [
            each for each in CONTAINERS.privileges if each not in privileges_on(permissions, f"/vms/{vmid}")
        ]:
            yield Refusal(
                f"The token may not change {vmid}",
                f"{token} lacks {', '.join(lacking)} on /vms/{vmid}.",
                f"On the node: `{role_line(CONTAINERS, CONTAINERS.privileges)}`, then {grant}.",
            )


def _refuse_state(inventory: Inventory, there: ObservedGuest) -> Iterator[Refusal]:
    if there.lock:
        yield Refusal(
            f"{there.vmid} is locked ({there.lock})",
            f"Something works on `{there.name}`, or was cut off.",
            f"Wait for its end. If nothing runs any more: `pct unlock {there.vmid}` on node {there.node}.",
        )
    others = sorted(tag for tag in there.tags if tag.startswith("homelab-") and tag != f"homelab-{inventory.lab}")
    if others:
        yield Refusal(
            f"{there.vmid} belongs to another lab",
            f"`{there.name}` carries the tag {', '.join(others)}.",
            "Leave it to that lab's inventory. If there is none any more, take the tag off in Proxmox.",
        )


def _refuse_shape(inventory: Inventory, there: ObservedGuest, shape: ContainerConfig) -> Iterator[Refusal]:
    vmid = there.vmid
    if not shape.unprivileged:
        yield Refusal(
            f"{vmid} is a privileged container",
            f"root in `{there.name}` is root on node {there.node}, and homelab manages unprivileged containers only.",
            f"Back it up and restore it on the node with `pct restore {vmid} BACKUP --unprivileged 1`.",
        )
    if not re.fullmatch(HOST_NAME, shape.hostname):
        yield Refusal(
            f"{vmid} has a name that the inventory cannot have",
            f"It is `{shape.hostname}`: a name is lower-case letters, digits and hyphens, at most 63.",
            f"On the node: `pct set {vmid} --hostname NAME`.",
        )
    if shape.address is None or shape.address.ip not in inventory.network.subnet:
        yield _no_address(inventory, there)
    if not shape.disk:
        yield Refusal(
            f"{vmid} has a root disk that the inventory cannot name",
            f"It is `{there.config.get('rootfs', 'not there')}`; disks are volumes of at least 1 GiB.",
            f"If it is only too small: `pct resize {vmid} rootfs 1G` on the node.",
        )
    if shape.memory < _LEAST_MEMORY:
        yield Refusal(
            f"{vmid} has too little memory",
            f"It has {shape.memory} MiB; the inventory has {_LEAST_MEMORY} at least.",
            f"On the node: `pct set {vmid} --memory {_LEAST_MEMORY}`.",
        )


def _no_address(inventory: Inventory, there: ObservedGuest) -> Refusal:
    network, net0 = inventory.network, str(there.config.get("net0", ""))
    fixed = write(
        {"name": "eth0", "bridge": network.bridge}
        | parse(net0)
        | {"ip": f"ADDRESS/{network.subnet.prefixlen}", "gw": str(network.gateway)}
    )
    return Refusal(
        f"{there.vmid} has no fixed address in {network.subnet}",
        f"Its network card is `{net0 or 'not there'}`; the inventory names each container's address.",
        f"On the node, with an address that is free: `pct set {there.vmid} --net0 {fixed}`.",
    )


def _refuse_taken(inventory: Inventory, candidate: Candidate) -> Iterator[Refusal]:
    vmid, address = candidate.there.vmid, candidate.shape.address
    for container in inventory.containers:
        same = [
            what
            for what, is_so in (
                (f"vmid {vmid}", container.vmid == vmid),
                (f"name {candidate.name}", container.name == candidate.name),
                (f"address {address}", address is not None and container.address == address.ip),
            )
            if is_so
        ]
        if same:
            yield Refusal(
                f"{vmid}: its {' and '.join(same)} is in the inventory already",
                f"{container.name} has {f'vmid {container.vmid}' if container.vmid else 'no vmid yet'} and "
                f"{container.address} there; {vmid} is `{candidate.name}` with {address}.",
                f"Change one of them: {container.name} in {inventory.path.name}, or {vmid} on the node.",
            )


def least(inventory: Inventory, candidate: Candidate) -> dict[str, Any]:
    """What every entry has: vmid, address (its last part where that says it), cores, memory."""
    if candidate.shape.address is None:
        raise ValueError(f"{candidate.name} has no address")
    ip = candidate.shape.address.ip
    short = int(inventory.network.subnet.network_address) & ~0xFF | int(ip) & 0xFF == int(ip)
    return {
        "vmid": candidate.there.vmid,
        "ip": f".{int(ip) & 0xFF}" if short else str(ip),
        "cores": candidate.shape.cores,
        "memory": candidate.shape.memory,
    }


def further(container: Container, candidate: Candidate, several_nodes: bool) -> dict[str, Any]:
    """What else an entry has to say: where a container differs from what the inventory's defaults make of it."""
    there = candidate.there
    differing = {each.field: each.found for each in differences(container.shape, candidate.shape)}
    storage = parse(str(there.config.get("rootfs", ""))).get("", "").partition(":")[0]
    entry = {
        "storage": storage if storage != container.storage else None,
        "node": there.node if there.node != container.node and (container.node or several_nodes) else None,
        "template": _template(container, there),
        **{key: _said(key, differing[key], container) for key in _SAID if key in differing},
    }
    return {key: value for key, value in entry.items() if value is not None}


def _said(key: str, value: Any, container: Container) -> Any:
    if key == "mounts":
        return {mount.path: _mount(mount, container) for mount in value} or None
    if key == "firewall":
        return None if value else False  # `true` would bring homelab's rules, and close what is open
    if key == "tags":
        return sorted(value - container.lab_tags)
    return sorted(value) if isinstance(value, frozenset) else value


def _mount(mount: Mount, container: Container) -> Any:
    more: dict[str, Any] = {} if mount.storage == container.storage else {"storage": mount.storage}
    if not mount.backup:
        more["backup"] = False
    return {"size": mount.size, **more} if more else mount.size


def _template(container: Container, there: ObservedGuest) -> str | None:
    """The template it was made from, or one of its system; None where the default says so, or nobody knows."""
    if there.template:
        distribution = distribution_of(there.template)
        made_from = distribution.alias if distribution else there.template
        return made_from if made_from != container.template else None
    fitting = [alias for alias in DISTRIBUTIONS if alias.startswith(f"{there.config.get('ostype', '')}-")]
    default = distribution_of(container.template)
    return None if not fitting or (default and default.alias in fitting) else fitting[-1]


def remarks(candidate: Candidate, container: Container, entry: Mapping[str, Any]) -> Iterator[str]:
    """What a person should know of an entry before it is written."""
    name, there = candidate.name, candidate.there
    if "cores" not in there.config:
        yield f"{name} may use all cores of its node; the inventory needs a number, and gets that of all"
    if not there.template:
        said = f"`template: {entry['template']}`" if "template" in entry else "the default template"
        yield (
            f"Proxmox knows of {name} only that its system is {there.config.get('ostype', 'unmanaged')}; {said} "
            "counts if it is ever made anew"
        )
    if candidate.shape.firewall and not container.shape.firewall:
        yield (
            f"{name}'s network card is behind Proxmox's firewall; `firewall: true` in its entry keeps that, and "
            "brings homelab's own rules"
        )
    if candidate.shape.description:
        yield f"{name} has a description, which `homelab up` replaces: keep what you need of it"
