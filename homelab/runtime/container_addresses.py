"""The addresses of containers with DHCP, read from Proxmox."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from homelab.errors import HomelabError
from homelab.model import DHCP, Container, Inventory

if TYPE_CHECKING:
    from homelab.plan import ObservedGuest

_PAUSE = 0.5  # seconds between two reads


def locate(inventory: Inventory) -> Inventory:
    """Return the inventory with the addresses that DHCP has given. Calls Proxmox only if a container uses DHCP."""
    from homelab.plan import with_leases

    ours = [container for container in inventory.containers if container.uses_dhcp]
    if not ours:
        return inventory
    found, resolved = _read(replace(inventory, containers=tuple(ours)))
    vmids = {container.name: container.vmid for container in resolved.containers}
    containers = tuple(replace(c, vmid=vmids.get(c.name, c.vmid)) for c in inventory.containers)
    return with_leases(replace(inventory, containers=containers), found)


def located(inventory: Inventory, container: Container, deadline: float) -> Container:
    """Return a container with its address; wait up to `deadline` seconds until DHCP has given it one.

    Raises HomelabError if it does not run, gets no address, or reports one that cannot be its own.
    """
    if container.known_address:
        return container
    from homelab.plan import refused_lease, with_leases

    until = time.monotonic() + deadline
    while True:
        found, resolved = _read(replace(inventory, containers=(container,)))
        (wanted,) = resolved.containers
        guest = found.get(wanted.vmid)
        everyone = replace(
            inventory, containers=(wanted, *(c for c in inventory.containers if c.name != container.name))
        )
        if refusal := refused_lease(everyone, wanted, found):
            raise HomelabError(refusal.brief, refusal.details, refusal.resolution)
        (wanted, *_) = with_leases(everyone, found).containers
        if wanted.known_address:
            return wanted
        if guest is None or not guest.running or time.monotonic() > until:
            raise _without_address(container, guest)
        time.sleep(_PAUSE)


def _read(inventory: Inventory) -> tuple[Mapping[int, ObservedGuest], Inventory]:
    """Read the guests of the inventory's containers, and the vmids of those without one."""
    from homelab.proxmox import Client, find_guests, vmids  # proxmoxer takes a tenth of a second to import

    client = Client(inventory.endpoint)
    resolved = vmids.resolve_vmids(client, inventory)
    return find_guests(client, resolved), resolved


def _without_address(container: Container, guest: ObservedGuest | None) -> HomelabError:
    brief = f"Cannot use the address of {container.name}: "
    if guest is None or not guest.running:
        state = "does not exist" if guest is None else f"is {guest.status}"
        return HomelabError(brief + f"it {state}", "DHCP gives it an address when it runs.", "Run `homelab up`.")
    if guest.live and guest.live.address != DHCP:
        return HomelabError(
            brief + "it does not use DHCP yet",
            "The inventory has `ip: dhcp`, its configuration on Proxmox has another address.",
            "Run `homelab up`.",
        )
    return HomelabError(
        brief + "DHCP has not given it one",
        f"Proxmox reports no IPv4 address of {guest.vmid} on node {guest.node}.",
        f"Check the DHCP server of {container.shape.bridge}, and that the container has a DHCP client: on the node, "
        f"`pct exec {guest.vmid} -- ip -4 address`. Or write a fixed `ip` in the inventory.",
    )
