"""What snapshots and backups share: a container that is free to be worked on, and judging the tasks on it."""

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

_EARLIER = 6 * 3600.0  # seconds to wait for what an earlier run has begun
# What a lock that nobody holds any more was left by.
_CUT_OFF = {
    "backup": "a backup",
    "snapshot": "the making of a snapshot",
    "snapshot-delete": "the removal of a snapshot",
    "rollback": "a rollback",
    "create": "its creation or restore",
    "migrate": "a migration",
    "disk": "a disk's move",
}


class ManagedContainer:
    """A container of ours whose state is to be kept or brought back. May be used beside others, from threads."""

    def __init__(self, client: Client, container: Container, found: ObservedGuest, progress: Progress) -> None:
        self.client = client
        self.container = container
        self.found = found
        self.progress = progress
        self.waited: dict[Task, str] = {}  # what `free` has waited for, and how it ended

    @property
    def name(self) -> str:
        """The container's name."""
        return self.container.name

    @property
    def path(self) -> str:
        """Where the API has it."""
        return f"nodes/{self.found.node}/lxc/{self.found.vmid}"

    def free(self) -> None:
        """Wait for what we have begun on it ourselves. Raises HomelabError if it is locked after that."""
        active = tasks.of_container(self.client, self.found.node, self.found.vmid, finished=False)
        ours = [task for task in active if task.creator == self.client.endpoint.token_id]
        for task in ours:
            with self.progress.step(self.name, f"wait for {task.kind}, which still runs") as update:
                self.waited[task] = tasks.ended(self.client, task, _EARLIER, update)
        if ours or self.found.lock:
            lock = self.client.get(f"{self.path}/status/current").get("lock")
            if lock:
                raise self.locked(str(lock))

    def locked(self, lock: str) -> HomelabError:
        """The error for a container that something else holds, or has left locked."""
        vmid, node = self.found.vmid, self.found.node
        active = tasks.of_container(self.client, node, vmid, finished=False)
        brief = f"{self.name} is locked ({lock})"
        if active:
            return HomelabError(
                brief,
                f"{active[0].creator} has begun {active[0].kind} of {vmid}, which still runs on node {node}.",
                "Wait for its end, then run the same command again.",
            )
        return HomelabError(
            brief,
            f"No task runs on {vmid} any more: {_CUT_OFF.get(lock, 'something')} was cut off on node {node} and "
            "left its lock behind.",
            f"On the node: `pct unlock {vmid}`; then run the same command again.",
        )

    def do(
        self, kind: str, doing: str, deadline: float, send: Callable[[], Any], hear: Callable[[str], None] | None = None
    ) -> Task:
        """Begin a task, once, and wait for its end; it. Its warnings are shown. Raises HomelabError."""
        task = tasks.begin(self.client, self.found.node, self.found.vmid, kind, send)
        try:
            warnings = tasks.wait(self.client, task, f"{self.name}: {doing}", deadline, hear)
        except TaskFailed as error:
            if lock := re.search(r"CT is locked \(([\w-]+)\)", error.details):
                raise self.locked(lock[1]) from error  # by somebody who was quicker
            raise
        for warning in warnings:
            self.progress.note(self.name, warning)
        return task
