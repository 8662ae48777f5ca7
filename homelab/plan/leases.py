"""Addresses that DHCP has given to running containers, as Proxmox reports them. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from homelab.model import Container, ContainerConfig, Inventory
from homelab.plan.actions import Refusal
from homelab.plan.observed_guest import ObservedGuest


def filtered_cards(container: Container, guest: ObservedGuest) -> frozenset[str]:
    """Return the network cards whose addresses for the IP filter come from DHCP or SLAAC, now or before the change."""
    shapes = [shape for shape in (container.shape, guest.shape, guest.live) if shape]
    cards = {card for shape in shapes for card, _ in shape.dynamic_addresses}
    return frozenset(cards & {"net0", *(card.option for card in container.shape.networks)})


def with_leases(inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Inventory:
    """Return the inventory with the addresses that DHCP and SLAAC have given; refused ones are left out."""
    return replace(inventory, containers=tuple(_with_lease(inventory, each, found) for each in inventory.containers))


def refused_lease(inventory: Inventory, container: Container, found: Mapping[int, ObservedGuest]) -> Refusal | None:
    """Return the refusal of a reported address that cannot be the container's; None for a valid or a missing one.

    Root of the container decides on the reported address, and must not claim that of another machine of the lab.
    """
    if (lease := _reported(container, found)) is None:
        return None
    network = inventory.network.subnet
    cause = f"it is outside the subnet {network}" if lease not in network else ""
    if lease in (network.network_address, network.broadcast_address, inventory.network.gateway):
        cause = f"it is the gateway's, or the network or broadcast address of {network}"
    if str(lease) == inventory.endpoint.host:
        cause = "Proxmox has it"
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
    taken = _taken(inventory, container, found)
    return replace(
        container,
        lease=_reported(container, found),
        reported=frozenset(
            (card, address)
            for card, address in guest.dynamic_addresses
            if card in filtered_cards(container, guest)
            and not _is_fixed(container.shape, card, address)
            and address not in taken
        ),
    )


def _is_fixed(shape: ContainerConfig, card: str, address: str) -> bool:
    """Check for an address of a kind that the inventory fixes from now on."""
    version = 6 if ":" in address else 4
    ours = {("net0", 4), *((each.option, number) for each in shape.networks for number in (4, 6))}
    ours |= {("net0", 6)} if shape.ip6 else set()
    return (card, version) in ours - shape.dynamic_addresses


def _taken(inventory: Inventory, container: Container, found: Mapping[int, ObservedGuest]) -> frozenset[str]:
    """Return the addresses of the gateways, of Proxmox and of all other containers."""
    texts = [str(inventory.network.gateway), container.shape.gw6, inventory.endpoint.host]
    for other in inventory.containers:
        if other.name != container.name:
            texts += [str(other.shape.address), str(_reported(other, found)), other.shape.ip6]
            texts += [text for card in other.shape.networks for text in (card.ip, card.ip6)]
            texts += _claimed_first(found.get(other.vmid), found.get(container.vmid))
    return frozenset(text.partition("/")[0] for text in texts if text)


def _claimed_first(other: ObservedGuest | None, guest: ObservedGuest | None) -> frozenset[str]:
    """Return the addresses of a running guest, without those that only the IP sets of `guest` have already."""
    if other is None or not other.running:
        return frozenset()
    theirs, ours = ({text for _, text in each.firewall.addresses} if each else set[str]() for each in (other, guest))
    return frozenset(text for _, text in other.dynamic_addresses) - (ours - theirs)


def _reported(container: Container, found: Mapping[int, ObservedGuest]) -> IPv4Address | None:
    guest = found.get(container.vmid)
    return guest.lease if container.uses_dhcp and guest and guest.belongs_to(container) else None
