"""What `up`, `destroy` and `status` share: the outcome of a change, and what Proxmox says of each container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from homelab.model import Container, Difference, Inventory, differences
from homelab.plan import Found, Plan
from homelab.progress import Progress
from homelab.proxmox import Client, find, tasks

_CREATE_DEADLINE = 1800.0  # seconds to wait for a create that an earlier run has begun


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a change did, by container, as plan lines; `confirmed` is False when the user said no."""

    done: Mapping[str, Sequence[str]] = field(default_factory=dict)
    confirmed: bool = True
    nothing: str = ""  # the sentence for when there was nothing to do

    def __bool__(self) -> bool:
        return bool(self.done)

    def __str__(self) -> str:
        if not self.confirmed:
            return "Nothing has been changed."
        return "\n".join(line for lines in self.done.values() for line in lines) or self.nothing

    @classmethod
    def of(cls, plan: Plan) -> Outcome:
        """The outcome of a plan that was carried out."""
        return cls({name: [str(action) for action in actions] for name, actions in plan.by_container().items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """A container as Proxmox has it; sizes in bytes, uptime in seconds. `foreign`: the vmid is somebody else's."""

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
    memory_used: int = 0
    memory_total: int = 0
    disk_used: int = 0
    disk_total: int = 0
    uptime: int = 0
    drift: Sequence[Difference] = ()
    pending: Sequence[str] = ()  # options that wait for a restart


def proxmox_status(inventory: Inventory, client: Client | None = None) -> Sequence[ContainerState]:
    """Each container's state, in the inventory's order. Raises HomelabError only where Proxmox cannot be asked."""
    found = find(client or Client(inventory.endpoint), inventory)
    return [_state(container, found.get(container.vmid)) for container in inventory.containers]


def _state(container: Container, there: Found | None) -> ContainerState:
    if there is None:
        return ContainerState(name=container.name, vmid=container.vmid, address=str(container.address))
    foreign = there.lock != "create" and not there.belongs_to(container)
    shape, usage = there.shape, there.usage
    return ContainerState(
        name=container.name, vmid=container.vmid, address=str(container.address), exists=True, foreign=foreign,
        running=there.running and not foreign, status=there.status, lock=there.lock, node=there.node,
        cores=shape.cores if shape else 0, pending=there.pending, memory_used=usage.memory,
        memory_total=usage.memory_total, disk_used=usage.disk, disk_total=usage.disk_total, uptime=usage.uptime,
        drift=tuple(differences(container.shape, shape)) if shape else ())


def settled(client: Client, inventory: Inventory, progress: Progress) -> dict[int, Found]:
    """What is there, once the creates that an earlier run of ours has begun have ended."""
    found = find(client, inventory)
    begun = {c.name: there for c in inventory.containers
             if (there := found.get(c.vmid)) and there.task and there.creator == client.endpoint.token_id}
    for name, there in begun.items():
        with progress.step(name, "wait for the create that an earlier run began"):
            # However it ends: a create that fails leaves nothing behind, and the plan begins anew.
            tasks.ended(client, tasks.Task.of(there.task or ""), _CREATE_DEADLINE)
    return find(client, inventory) if begun else found
