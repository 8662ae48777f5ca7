"""The machine that homelab runs on, as the containers' firewall sees it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address

from homelab.model import Container, Inventory
from homelab.model.firewall import desired_firewall, lets_in_ssh
from homelab.plan import Note


def own_address(target: IPv4Address) -> IPv4Address | None:
    """From which of its addresses this machine would reach that one; None if it would not. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(target), 9))  # of a datagram socket that only asks the routes
        except OSError:
            return None
        return IPv4Address(probe.getsockname()[0])


def lockout_notes(
    inventory: Inventory,
    containers: Sequence[Container],
    own: Callable[[IPv4Address], IPv4Address | None] = own_address,
) -> Iterator[Note]:
    """Where the firewall that the inventory wants would not let this machine in over SSH.

    A note and no refusal: behind NAT the containers see another address than this machine does.
    """
    for container in containers:
        want = desired_firewall(inventory, container)
        address = own(container.address) if want.on else None
        if address and not lets_in_ssh(want, address):
            yield Note(
                container.name,
                f"SSH from here comes from {address}, which is not among `ssh_allowed_from` under "
                "`network:` in the inventory: the firewall will not let it in, unless the "
                "container sees it under another address",
            )
