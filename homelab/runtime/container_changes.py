"""Changes of containers on Proxmox: the audited client, plans on an idle node, and their outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from homelab.errors import Interrupted
from homelab.model import Inventory
from homelab.plan import ObservedGuest, Plan
from homelab.proxmox import Client, find_guests, tasks
from homelab.proxmox.audit import Audit
from homelab.proxmox.golden_templates import with_goldens
from homelab.proxmox.inspect import current_digest
from homelab.proxmox.spreading import with_nodes
from homelab.proxmox.tasks import Task
from homelab.proxmox.templates import with_templates
from homelab.runtime.concurrency import run_all_or_raise
from homelab.runtime.session import Session

T = TypeVar("T")
UNCHANGED = "Nothing was changed."
_LATELY = 300.0  # seconds, of which the clocks of the node and of this machine may differ by some
_DEADLINE = 1800.0  # seconds to wait for the tasks of an earlier run


@dataclass(frozen=True, slots=True)
class Outcome:
    """The changes that were made, as plan lines by container; `confirmed` is False if the user declined."""

    done: Mapping[str, Sequence[str]] = field(default_factory=dict)
    confirmed: bool = True
    nothing: str = ""  # the sentence for an empty plan

    def __bool__(self) -> bool:
        return bool(self.done)

    def __str__(self) -> str:
        if not self.confirmed:
            return UNCHANGED
        return "\n".join(line for lines in self.done.values() for line in lines) or self.nothing

    @classmethod
    def of(cls, plan: Plan) -> Outcome:
        """Return the outcome of a plan that was executed."""
        return cls({name: [str(action) for action in actions] for name, actions in plan.by_container().items()})


def audited_client(inventory: Inventory) -> Client:
    """Return a client that records its changes in the lab's audit log."""
    return Client(inventory.endpoint, Audit(inventory.state_dir / "audit.log", inventory.endpoint.token_id))


def run_on_containers(client: Client, work: Mapping[str, Callable[[], T]], noun: str = "containers") -> dict[str, T]:
    """Run jobs in parallel and return their results by name. Raises HomelabError.

    On Ctrl-C, raises Interrupted, which names the tasks that continue on the node.
    """
    try:
        return run_all_or_raise(work, noun)
    except KeyboardInterrupt as error:
        unanswered = client.close()
        running = [Task.of(upid) for upid in tuple(client.under_way)]
        listed = [f"  {t.kind} of {t.vmid} on {t.node}: {t.upid}" for t in running]
        listed += [f"  {change}: sent, and not yet answered" for change in unanswered]
        raise Interrupted(
            "Interrupted",
            "\n".join(["These tasks continue on the node:", *listed])
            if listed
            else "No task of this run is still running on the node.",
            "Run the same command again: it waits for these tasks, then continues.",
        ) from error


def plan_when_idle(
    session: Session, client: Client, make: Callable[[Mapping[int, ObservedGuest]], Plan]
) -> tuple[dict[int, ObservedGuest], Plan, Sequence[str]]:
    """Return the guests by vmid, the plan that `make` makes of them, and the containers whose tasks were awaited.

    Tasks of an interrupted run continue on the node. They end before the plan is made, so it stays valid.
    """
    inventory = session.inventory
    waited: list[str] = []
    before: Mapping[int, str] = {}
    while True:
        found = find_guests(client, inventory)
        plan = make(found)
        running = _running(client, inventory, found, plan)
        locks = {vmid: there.lock for vmid, there in found.items() if there.lock}
        # A lock without a task of ours is someone else's, unless its task ended since the guests were read.
        if not running and locks.items() <= before.items() and _is_current(client, inventory, found, plan):
            return (
                found,
                with_goldens(client, inventory, with_templates(client, with_nodes(client, inventory, found, plan))),
                waited,
            )
        waited += _wait(session, client, running)
        before = locks


def _is_current(client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest], plan: Plan) -> bool:
    """Return False if a task that has ended since the guests were read changed one of them.

    Only containers with a task of the last minutes are read again; a change that is missed all the same is found before
    the first action on the container.
    """
    affected = plan.by_container()
    seen = [found[c.vmid] for c in inventory.containers if c.name in affected and c.vmid in found]
    return all(
        current_digest(client, there) == there.digest
        for there in seen
        if there.digest and any(_ended_lately(task) for task in tasks.recent(client, there.node, there.vmid))
    )


def _ended_lately(task: Task) -> bool:
    return task.running or task.end > time.time() - _LATELY


def _running(
    client: Client, inventory: Inventory, found: Mapping[int, ObservedGuest], plan: Plan
) -> Mapping[str, Sequence[Task]]:
    """Return the running tasks by container of the plan; on a locked container, only those of our own token."""
    running = {}
    affected = plan.by_container()
    for container in inventory.containers:
        there = found.get(container.vmid)
        if there and (there.lock or container.name in affected):
            active = [task for task in tasks.recent(client, there.node, there.vmid) if task.running]
            if there.task and there.task not in [task.upid for task in active]:
                # Proxmox lists a clone's task at its source.
                active = [*active, replace(Task.of(there.task), creator=there.creator or "")]
            running[container.name] = [
                task for task in active if not there.lock or task.creator == client.endpoint.token_id
            ]
    return {name: theirs for name, theirs in running.items() if theirs}


def _wait(session: Session, client: Client, running: Mapping[str, Sequence[Task]]) -> list[str]:
    """Wait for tasks, even failing ones: a failed create leaves nothing, and the plan is made again."""
    for name, theirs in running.items():
        for task in theirs:
            with session.progress.step(name, f"wait for {task.kind}, which is still running"):
                tasks.ended(client, task, _DEADLINE)
    return list(running)
