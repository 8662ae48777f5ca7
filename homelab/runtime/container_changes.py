"""What `up`, `destroy` and `status` share: the outcome of a change, and what Proxmox says of each container."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from homelab.errors import HomelabError
from homelab.model import Container, Difference, Inventory
from homelab.model.firewall import changes, desired_firewall, goal
from homelab.plan import ObservedGuest, Plan, drift
from homelab.progress import Progress
from homelab.proxmox import Client, find_guests, tasks, vmids
from homelab.proxmox.audit import Audit
from homelab.proxmox.golden_templates import with_goldens
from homelab.proxmox.inspect import current_digest
from homelab.proxmox.tasks import Task
from homelab.proxmox.templates import with_templates
from homelab.runtime.concurrency import run_all_or_raise

T = TypeVar("T")
INTERRUPTED = 130  # the exit code of a program that Ctrl-C has ended
_DEADLINE = 1800.0  # seconds to wait for what an earlier run has begun


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


class Interrupted(HomelabError):
    """Ctrl-C while work was going on."""

    exit_code = INTERRUPTED


def audited_client(inventory: Inventory) -> Client:
    """A client whose changes are noted in the lab's audit log."""
    return Client(inventory.endpoint, Audit(inventory.state_dir / "audit.log", inventory.endpoint.token_id))


def run_on_containers(client: Client, work: Mapping[str, Callable[[], T]], what: str = "containers") -> dict[str, T]:
    """Do it side by side; on Ctrl-C say which tasks go on without us. Raises HomelabError."""
    try:
        return run_all_or_raise(work, what)
    except KeyboardInterrupt as error:
        client.close()
        running = [Task.of(upid) for upid in tuple(client.under_way)]
        raise Interrupted(
            "Interrupted",
            "\n".join(
                [
                    "These tasks go on on the node without us:",
                    *(f"  {t.kind} of {t.vmid} on {t.node}: {t.upid}" for t in running),
                ]
            )
            if running
            else "No task that this run has begun is still running on the node.",
            "Run the same command again: it waits for what still runs, and goes on from there.",
        ) from error


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


def container_states(inventory: Inventory, client: Client | None = None) -> Sequence[ContainerState]:
    """Each container's state, in the inventory's order. Raises HomelabError only where Proxmox cannot be asked."""
    client = client or Client(inventory.endpoint)
    inventory = vmids.resolve_vmids(client, inventory)
    found = find_guests(client, inventory)
    return [_state(inventory, container, found.get(container.vmid)) for container in inventory.containers]


def _state(inventory: Inventory, container: Container, there: ObservedGuest | None) -> ContainerState:
    if there is None:
        return ContainerState(name=container.name, vmid=container.vmid, address=str(container.address))
    foreign = there.lock != "create" and not there.belongs_to(container)
    shape, usage = there.shape, there.usage
    return ContainerState(
        name=container.name,
        vmid=container.vmid,
        address=str(container.address),
        exists=True,
        foreign=foreign,
        running=there.running and not foreign,
        status=there.status,
        lock=there.lock,
        node=there.node,
        cores=shape.cores if shape else 0,
        pending=there.pending,
        memory_used=usage.memory,
        memory_total=usage.memory_total,
        disk_used=usage.disk,
        disk_total=usage.disk_total,
        uptime=usage.uptime,
        drift=(*drift(container, shape), *_walls(inventory, container, there)) if shape else (),
    )


def _walls(inventory: Inventory, container: Container, there: ObservedGuest) -> Iterator[Difference]:
    unlike = tuple(changes(goal(desired_firewall(inventory, container), there.firewall), there.firewall))
    if unlike:
        yield Difference("firewall", "as the inventory says", f"{len(unlike)} rules or settings otherwise")


def plan_when_idle(
    client: Client, inventory: Inventory, progress: Progress, make: Callable[[Mapping[int, ObservedGuest]], Plan]
) -> tuple[dict[int, ObservedGuest], Plan, Sequence[str]]:
    """What is there, the plan that `make` makes of it, and the names of those whose tasks were waited for.

    What a killed run has begun goes on without it. Its end comes before the plan, so that the plan is what is done.
    """
    waited: list[str] = []
    before: Mapping[int, str] = {}
    while True:
        found = find_guests(client, inventory)
        plan = make(found)
        running = _running(client, inventory, found, plan)
        locks = {vmid: there.lock for vmid, there in found.items() if there.lock}
        # A lock that nothing of ours holds is somebody else's, unless its task has ended since we looked.
        if not running and locks.items() <= before.items() and _still_so(client, inventory, found, plan):
            return found, with_goldens(client, inventory, with_templates(client, plan)), waited
        waited += _wait(client, progress, running)
        before = locks


def _still_so(client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest], plan: Plan) -> bool:
    """Whether no task that ended after we looked, and so is not among the running ones, has changed what we saw."""
    about = plan.by_container()
    seen = [found[c.vmid] for c in inventory.containers if c.name in about and c.vmid in found]
    return all(current_digest(client, there) == there.digest for there in seen if there.digest)


def _running(
    client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest], plan: Plan
) -> Mapping[str, Sequence[Task]]:
    """The tasks on each container that the plan is about; on what is locked, only our own token's."""
    running = {}
    about = plan.by_container()
    for container in inventory.containers:
        there = found.get(container.vmid)
        if there and (there.lock or container.name in about):
            active = tasks.of_container(client, there.node, there.vmid, finished=False)
            if there.task and there.task not in [task.upid for task in active]:
                # A clone's task is listed at what it clones.
                active = [*active, replace(Task.of(there.task), creator=there.creator or "")]
            running[container.name] = [
                task for task in active if not there.lock or task.creator == client.endpoint.token_id
            ]
    return {name: theirs for name, theirs in running.items() if theirs}


def _wait(client: Client, progress: Progress, running: Mapping[str, Sequence[Task]]) -> list[str]:
    """Wait for tasks, however they end: a create that fails leaves nothing, and the plan begins anew."""
    for name, theirs in running.items():
        for task in theirs:
            with progress.step(name, f"wait for {task.kind}, which still runs"):
                tasks.ended(client, task, _DEADLINE)
    return list(running)
