"""The containers' states on Proxmox."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from homelab.model import Container, Difference, Inventory
from homelab.model.firewall import changes, desired_firewall, goal
from homelab.plan import Note, ObservedGuest, drift, orphan_notes, with_leases
from homelab.proxmox import Client, find_guests, vmids


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as Proxmox has it; sizes in bytes, uptime in seconds, the use `cpu` of its cores from 0 to 1.

    `foreign`: the guest is not this lab's. `address` is `dhcp` if DHCP gives it, and it is not known.
    """

    name: str
    vmid: int
    address: str
    exists: bool = False
    running: bool = False
    foreign: bool = False
    status: str = "missing"
    lock: str | None = None
    node: str | None = None
    cores: int = 0
    cpu: float = 0.0
    memory_used: int = 0
    memory_total: int = 0
    disk_used: int = 0
    disk_total: int = 0
    uptime: int = 0
    drift: Sequence[Difference] = ()
    pending: Sequence[str] = ()  # options that need a restart


def container_states(inventory: Inventory) -> tuple[Sequence[ContainerState], Sequence[Note]]:
    """Return each container's state in the inventory's order, and notes on guests that are missing in the inventory.

    Raises HomelabError if Proxmox does not answer.
    """
    client = Client(inventory.endpoint)
    inventory = vmids.resolve_vmids(client, inventory)
    found = find_guests(client, inventory)
    inventory = with_leases(inventory, found)
    states = [_state(inventory, container, found.get(container.vmid)) for container in inventory.containers]
    return states, list(orphan_notes(inventory, found))


def _state(inventory: Inventory, container: Container, there: ObservedGuest | None) -> ContainerState:
    if there is None:
        return ContainerState(name=container.name, vmid=container.vmid, address=container.shown_address)
    foreign = there.lock != "create" and not there.belongs_to(container)
    shape, usage = there.shape, there.usage
    return ContainerState(
        name=container.name,
        vmid=container.vmid,
        address=container.shown_address,
        exists=True,
        foreign=foreign,
        running=there.running and not foreign,
        status=there.status,
        lock=there.lock,
        node=there.node,
        cores=shape.cores if shape else 0,
        cpu=usage.cpu,
        pending=there.pending,
        memory_used=usage.memory,
        memory_total=usage.memory_total,
        disk_used=usage.disk,
        disk_total=usage.disk_total,
        uptime=usage.uptime,
        drift=(*drift(container, shape), *_firewall_drift(inventory, container, there)) if shape else (),
    )


def _firewall_drift(inventory: Inventory, container: Container, there: ObservedGuest) -> Iterator[Difference]:
    differing = tuple(changes(goal(desired_firewall(inventory, container), there.firewall), there.firewall))
    if differing:
        yield Difference("firewall", "as in the inventory", f"{len(differing)} rules or settings differ")
