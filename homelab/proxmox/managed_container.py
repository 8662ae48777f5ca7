"""Shared code of snapshots and backups: wait until a container is unlocked, and run tasks on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from homelab.errors import HomelabError
from homelab.model import Container
from homelab.plan import ObservedGuest
from homelab.progress import Progress
from homelab.proxmox import tasks
from homelab.proxmox.client import Client
from homelab.proxmox.tasks import Task, TaskFailed

_EARLIER = 6 * 3600.0  # timeout in seconds for the tasks of an earlier run
# The interrupted operation that left a lock.
_INTERRUPTED = {
    "backup": "a backup",
    "snapshot": "the creation of a snapshot",
    "snapshot-delete": "the removal of a snapshot",
    "rollback": "a rollback",
    "create": "its creation or restore",
    "migrate": "a migration",
    "disk": "a disk's move",
}


class ManagedContainer:
    """A container of ours that is saved or restored. Several may be used in parallel threads."""

    def __init__(self, client: Client, container: Container, found: ObservedGuest, progress: Progress) -> None:
        self.client = client
        self.container = container
        self.found = found
        self.progress = progress
        self.waited: dict[Task, str] = {}  # the tasks that `free` waited for, and their exit status

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    @property
    def path(self) -> str:
        """The container's path in the API."""
        return f"nodes/{self.found.node}/lxc/{self.found.vmid}"

    def free(self) -> None:
        """Wait for our own running tasks on the container. Raises HomelabError if it is still locked afterwards."""
        active = tasks.of_container(self.client, self.found.node, self.found.vmid, finished=False)
        ours = [task for task in active if task.creator == self.client.endpoint.token_id]
        for task in ours:
            with self.progress.step(self.name, f"wait for the running {task.kind}") as update:
                self.waited[task] = tasks.ended(self.client, task, _EARLIER, update)
        if ours or self.found.lock:
            lock = self.client.get(f"{self.path}/status/current").get("lock")
            if lock:
                raise self.locked(str(lock))

    def locked(self, lock: str) -> HomelabError:
        """Return the error for a container that another task has locked, or an interrupted one has left locked."""
        vmid, node = self.found.vmid, self.found.node
        active = tasks.of_container(self.client, node, vmid, finished=False)
        brief = f"Cannot change {self.name}: it is locked ({lock})"
        if active:
            return HomelabError(
                brief,
                f"{active[0].creator} started {active[0].kind} of {vmid}, which still runs on node {node}.",
                "Wait for its end, then run the same command again.",
            )
        return HomelabError(
            brief,
            f"No task runs on {vmid} any more: {_INTERRUPTED.get(lock, 'a task')} was interrupted on node "
            f"{node} and left its lock.",
            f"On the node: `pct unlock {vmid}`; then run the same command again.",
        )

    def do(
        self, kind: str, goal: str, deadline: float, send: Callable[[], Any], hear: Callable[[str], None] | None = None
    ) -> Task:
        """Start a task, wait for its end, show its warnings and return it. Raises HomelabError.

        `goal` names the action in errors, such as `shut down NAME`.
        """
        task = tasks.begin(self.client, self.found.node, self.found.vmid, kind, send)
        try:
            warnings = tasks.wait(self.client, task, goal, deadline, hear)
        except TaskFailed as error:
            if lock := re.search(r"CT is locked \(([\w-]+)\)", error.details):
                raise self.locked(lock[1]) from error  # by a concurrent task
            raise
        for warning in warnings:
            self.progress.note(self.name, warning)
        return task
