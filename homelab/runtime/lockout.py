"""Lockout: a firewall that would refuse SSH from this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

from homelab.model import Container, Inventory
from homelab.model.firewall import desired_firewall, lets_in_ssh
from homelab.plan import Note


def own_address(target: IPv4Address) -> IPv4Address | None:
    """Return this machine's address on the route to `target`, None without a route. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(target), 9))  # a datagram socket only looks up the route
        except OSError:
            return None
        return IPv4Address(probe.getsockname()[0])


def lockout_notes(
    inventory: Inventory,
    containers: Sequence[Container],
    own: Callable[[IPv4Address], IPv4Address | None] = own_address,
) -> Iterator[Note]:
    """Yield a note per container whose firewall would refuse SSH from this machine.

    A note instead of a refusal: behind NAT, the containers see another address.
    """
    for container in containers:
        firewall = desired_firewall(inventory, container)
        address = own(container.known_address or inventory.network.gateway) if firewall.on else None
        if address and not lets_in_ssh(firewall, address):
            yield Note(
                container.name,
                f"SSH from this machine comes from {address}, which `ssh_allowed_from` under `network:` in the "
                "inventory does not contain: the firewall will refuse it, unless the container sees another address",
            )
