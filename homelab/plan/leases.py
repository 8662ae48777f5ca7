"""Addresses that DHCP has given to running containers, as Proxmox reports them. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from homelab.model import DHCP, Container, ContainerConfig, Inventory
from homelab.plan.actions import Refusal
from homelab.plan.observed_guest import ObservedGuest


def filtered_cards(container: Container, guest: ObservedGuest) -> frozenset[str]:
    """Return the network cards whose addresses for the IP filter come from DHCP or SLAAC, or did so until now."""
    shapes = [shape for shape in (container.shape, guest.shape, guest.live) if shape]
    return frozenset(card for shape in shapes for card in shape.dynamic_cards)


def with_leases(inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Inventory:
    """Return the inventory with the addresses that DHCP and SLAAC have given; refused ones are left out."""
    return replace(inventory, containers=tuple(_with_lease(inventory, each, found) for each in inventory.containers))


def refused_lease(inventory: Inventory, container: Container, found: Mapping[int, ObservedGuest]) -> Refusal | None:
    """Return the refusal of a reported address that cannot be the container's; None for a good or a missing one.

    Root of the container decides what Proxmox reports, so it must not claim the address of another machine of the lab.
    """
    if (lease := _reported(container, found)) is None:
        return None
    network = inventory.network.subnet
    cause = f"it is outside the subnet {network}" if lease not in network else ""
    if lease in (network.network_address, network.broadcast_address, inventory.network.gateway):
        cause = f"it is the gateway's, or the network or broadcast address of {network}"
    for other in inventory.containers:
        if other.name != container.name and lease in (other.known_address, _reported(other, found)):
            cause = f"{other.name} has it"
    if not cause:
        return None
    return Refusal(
        f"Cannot use the address of {container.name}: {cause}",
        f"Proxmox reports that {container.name} has {lease} by DHCP.",
        f"Correct the DHCP server's range or reservation, and run `pct reboot {container.vmid}` on the node; or write "
        f"a fixed `ip` for {container.name} in the inventory.",
    )


def _with_lease(inventory: Inventory, container: Container, found: Mapping[int, ObservedGuest]) -> Container:
    guest = found.get(container.vmid)
    if guest is None or not guest.belongs_to(container):
        return replace(container, lease=None, reported=frozenset())
    if refused_lease(inventory, container, found):
        return replace(container, lease=None, reported=frozenset())
    return replace(
        container,
        lease=_reported(container, found),
        reported=frozenset(each for each in guest.dynamic_addresses if _is_dynamic(container.shape, each[1])),
    )


def _is_dynamic(shape: ContainerConfig, address: str) -> bool:
    """Return False for an address of a kind that the inventory fixes from now on."""
    return shape.ip6 in (None, DHCP, "auto") if ":" in address else shape.address == DHCP


def _reported(container: Container, found: Mapping[int, ObservedGuest]) -> IPv4Address | None:
    guest = found.get(container.vmid)
    return guest.lease if container.uses_dhcp and guest and guest.belongs_to(container) else None
