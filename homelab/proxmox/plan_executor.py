"""Carry out plans: one function for each kind of action; each can be killed and repeated safely."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from homelab.errors import HomelabError
from homelab.known_hosts import KnownHosts, Pin
from homelab.model import Container
from homelab.plan import (
    Action,
    Clone,
    Create,
    Destroy,
    MoveToPool,
    ObservedGuest,
    Resize,
    Start,
    Stop,
    Update,
    UpdateFirewall,
    filtered_cards,
)
from homelab.plan.refusals import FOR_EVERYBODY
from homelab.plan.template import Template
from homelab.progress import Progress
from homelab.proxmox import container_update, description_metadata, firewall_api, hostkeys, tasks
from homelab.proxmox.client import Client
from homelab.proxmox.errors import REFUSED, ProxmoxError, Unanswered
from homelab.proxmox.properties import disk_option, mount_options, options
from homelab.proxmox.property_strings import parse

# Timeouts of tasks in seconds; a create may unpack hundreds of megabytes onto a slow disk.
_CREATE, _START, _STOP, _RESIZE, _DESTROY, _OTHERS = 1800.0, 180.0, 180.0, 600.0, 600.0, 600.0
_SHUTDOWN = 60  # timeout in seconds for a clean shutdown, before Proxmox stops the container
_DESTROY_WHOLLY = {"force": True, "purge": True, "destroy-unreferenced-disks": True}
_RESIZE_FAILED = re.compile(r"resize2fs: |Permission denied")
_START_APPEARS = 10.0  # seconds within which the start task after a create has to appear


class PlanExecutor:
    """Executor of actions. May be used from several threads, for different containers."""

    def __init__(self, client: Client, public_key: str, known_hosts: KnownHosts, progress: Progress) -> None:
        self._client = client
        self._public_key = public_key
        self._known_hosts = known_hosts
        self._progress = progress

    def execute(self, actions: Sequence[Action]) -> None:
        """Carry out one container's actions in order, and wait for the end of each. Raises HomelabError."""
        first = actions[0]
        if not isinstance(first, Create | Clone) and first.found:
            tasks.settle(self._client, first.found.node, first.found.vmid, _OTHERS)
            container_update.refuse_changed(self._client, first.container, first.found)
        restarts = any(isinstance(action, Stop) for action in actions)
        for before, action in zip((None, *actions), actions, strict=False):
            if isinstance(action, Update):
                with self._progress.step(action.container.name, "update the configuration"):
                    grown = isinstance(before, Resize)
                    container_update.update(
                        self._client,
                        container_update.after_growth(self._client, action) if grown else action,
                        restarts=restarts,
                    )
            else:
                self._apply(action)

    def _apply(self, action: Action) -> None:
        step, name = self._progress.step, action.container.name
        match action:
            case Create(container, template):
                if template is None:
                    raise ValueError(f"{name}: its template is not resolved")
                self._create(container, template)
            case UpdateFirewall():
                with step(name, "update the firewall"):
                    self._guard(action)
            case Resize():
                with step(name, f"grow the disk at {action.disk.path} to {action.disk.wanted} GiB"):
                    self._grow(action)
            case MoveToPool(container, found, pool):
                with step(name, f"move to pool {pool}"):
                    self._join(found, pool)
            case Stop(container, found):
                self._shut_down(container, found)
            case Start(container, found):
                with step(name, "start"):
                    self._start(container, found.node)
            case Destroy(container, found):
                if action.shutdown:
                    self._shut_down(container, found)
                with step(name, "destroy"):
                    self._do(
                        container,
                        found.node,
                        "vzdestroy",
                        f"destroy {name}",
                        _DESTROY,
                        partial(self._client.delete, _path(found), **_DESTROY_WHOLLY),
                    )

    def _shut_down(self, container: Container, found: ObservedGuest) -> None:
        """Shut down a running container within its `stop_timeout`."""
        if not self._running(container, found.node):
            return
        seconds = (found.shape.stop_timeout if found.shape else None) or _SHUTDOWN
        send = partial(self._client.post, _path(found, "status/shutdown"), timeout=seconds, forceStop=True)
        with self._progress.step(container.name, "shut down"):
            deadline = seconds + _STOP - _SHUTDOWN
            self._do(container, found.node, "vzshutdown", f"shut down {container.name}", deadline, send)

    def _create(self, container: Container, template: Template) -> None:
        name, node = container.name, template.node
        with self._progress.step(name, f"create from {template.file_name}"):
            try:
                task = tasks.begin(
                    self._client,
                    node,
                    container.vmid,
                    "vzcreate",
                    partial(self._client.post, f"nodes/{node}/lxc", **self._parameters(container, template)),
                )
            except ProxmoxError as error:
                self.say_if_taken(container, error)
                raise
            self._warn(name, tasks.wait(self._client, task, f"create {name}", _CREATE))
            # Pin the key immediately: Proxmox deletes old task logs.
            self._known_hosts.pin(name, Pin(hostkeys.known(tasks.log(self._client, task), name, container.vmid)))
        with self._progress.step(name, "start"):
            self.await_start(container, node, task.started)

    def say_if_taken(self, container: Container, cause: ProxmoxError) -> None:
        """Raise HomelabError if Proxmox refused the call because another guest now has the vmid."""
        rows = self._client.get("cluster/resources", type="vm") if cause.status == REFUSED else ()
        for row in rows:
            if int(row["vmid"]) == container.vmid:
                raise HomelabError(
                    f"Cannot create {container.name}: vmid {container.vmid} was taken after the plan was made",
                    f"It now belongs to `{row.get('name', '')}` on node {row['node']}, which was not changed.",
                    "Run the same command again: it makes a new plan.",
                ) from cause

    def _parameters(self, container: Container, template: Template) -> dict[str, Any]:
        shape = replace(container.shape, features=container.shape.features & FOR_EVERYBODY)
        parameters = (
            options(shape)
            | mount_options(shape, {})
            | {
                "vmid": container.vmid,
                "ostemplate": template.volume,
                "rootfs": f"{container.storage}:{shape.disk}",
                "description": description_metadata.with_source(
                    shape.description, template.volume, datetime.now(UTC).date()
                ),
                "ssh-public-keys": "\n".join((self._public_key, *container.ssh_keys)),
                "start": True,
            }
        )
        return parameters | ({"pool": shape.pool} if shape.pool else {})

    def await_start(self, container: Container, node: str, since: int) -> None:
        """Wait for the start that followed a task begun at `since`, in seconds since the epoch. Raises HomelabError.

        `start=1` starts a separate task, and the create, restore or rollback ends with OK even if that one fails.
        """
        until = time.monotonic() + _START_APPEARS
        for pause in tasks.pauses():
            starts = [
                task
                for task in tasks.newest(self._client, node, tasks.shared_since(pause))
                if (task.kind, task.vmid) == ("vzstart", str(container.vmid)) and task.started >= since
            ]
            if starts:
                self._judge(container, starts[0], f"start {container.name}", _START)
                return
            if self._running(container, node):
                return
            if time.monotonic() > until:
                break
            time.sleep(pause)
        self._start(container, node)

    def _guard(self, action: UpdateFirewall) -> None:
        container, found = action.container, action.found
        node = found.node if found else container.node or only_node(self._client)
        cards = filtered_cards(container, found) if found else frozenset[str]()
        if found and firewall_api.read(self._client, node, container.vmid, cards) != found.firewall:
            raise container_update.changed(container, found, "firewall")
        firewall_api.make(self._client, node, container.vmid, action.goal, cards)

    def _grow(self, action: Resize) -> None:
        """Grow a volume and its file system. Raises HomelabError if only the volume grew: the task ends with OK."""
        found, disk, name = action.found, action.disk, action.container.name
        option = disk_option(found.config, disk.path)
        send = partial(self._client.put, _path(found, "resize"), disk=option, size=f"{disk.wanted}G")
        task = tasks.begin(self._client, found.node, found.vmid, "resize", send)
        self._judge(action.container, task, f"grow the disk at {disk.path} of {name}", _RESIZE)
        complaints = [line for line in tasks.log(self._client, task) if _RESIZE_FAILED.search(line)]
        if complaints:
            raise HomelabError(
                f"Cannot grow the file system at {disk.path} of {name}: only its volume has {disk.wanted} GiB",
                "\n".join(complaints),
                f"On node {found.node}, as root: `resize2fs $(pvesm path {parse(str(found.config[option]))['']})`.",
            )

    def _join(self, found: ObservedGuest, pool: str) -> None:
        try:
            self._client.put("pools", poolid=pool, vms=found.vmid, **({"allow-move": True} if found.pool else {}))
        except Unanswered:
            rows = self._client.get("cluster/resources", type="vm")
            if pool not in (row.get("pool") for row in rows if int(row["vmid"]) == found.vmid):
                raise

    def _start(self, container: Container, node: str) -> None:
        if not self._running(container, node):
            self._do(
                container,
                node,
                "vzstart",
                f"start {container.name}",
                _START,
                partial(self._client.post, f"nodes/{node}/lxc/{container.vmid}/status/start"),
            )

    def _running(self, container: Container, node: str) -> bool:
        current = self._client.get(f"nodes/{node}/lxc/{container.vmid}/status/current")
        return bool(current["status"] == "running")

    def _do(
        self, container: Container, node: str, kind: str, goal: str, deadline: float, send: Callable[[], Any]
    ) -> None:
        self._judge(container, tasks.begin(self._client, node, container.vmid, kind, send), goal, deadline)

    def _judge(self, container: Container, task: tasks.Task, goal: str, deadline: float) -> None:
        self._warn(container.name, tasks.wait(self._client, task, goal, deadline))

    def _warn(self, name: str, warnings: list[str]) -> None:
        for warning in warnings:
            self._progress.note(name, warning)


def _path(found: ObservedGuest, below: str = "") -> str:
    return f"nodes/{found.node}/lxc/{found.vmid}/{below}".rstrip("/")


def only_node(client: Client) -> str:
    """Return the name of the only node. Raises HomelabError if there are several."""
    nodes = sorted(str(row["node"]) for row in client.get("nodes"))
    if len(nodes) != 1:
        raise HomelabError(
            "Cannot choose a node for the containers: the inventory names none",
            f"The cluster has {', '.join(nodes) or 'none that this token can see'}.",
            "Write `node:` under `proxmox:` in the inventory.",
        )
    return nodes[0]
