"""Containers that are cloned from golden ones, up to the point where they are like any other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from homelab.errors import HomelabError
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Inventory
from homelab.plan import Action, Clone, ObservedGuest, RegenerateIdentity, Start, Stop, plan_up
from homelab.plan.golden_container import GoldenContainer
from homelab.progress import Progress
from homelab.proxmox import Client, PlanExecutor, description_metadata, golden_templates
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.inspect import inspect_container
from homelab.runtime.clone_identity import Reach, renew_identity, verify_identity


class Cloner:
    """Makes them, and goes on where a killed run stopped. May be used from several threads, for different containers.

    What is left to do is read off the container: its description says that it is unfinished until the very end.
    """

    def __init__(
        self,
        client: Client,
        inventory: Inventory,
        builder: PlanExecutor,
        known_hosts: KnownHosts,
        progress: Progress,
        reach: Reach,
    ) -> None:
        self._client, self._inventory, self._builder = client, inventory, builder
        self._known_hosts, self._progress, self._reach = known_hosts, progress, reach
        self._turns: dict[int, threading.Lock] = {}

    def execute(self, actions: Sequence[Action]) -> None:
        """Carry out one container's actions, each to its end; the last one, or the only one, is of our kinds."""
        first = actions[0]
        if isinstance(first, Clone):
            actions = self._clone(first.container, first.golden)
        last = actions[-1]
        if not isinstance(last, RegenerateIdentity):
            raise ValueError(f"{last.container.name} is not unfinished")
        if others := [action for action in actions if action is not last]:
            self._builder.execute(others)
        self._finish(last.container, last.found.node)

    def _clone(self, container: Container, source: GoldenContainer | None) -> Sequence[Action]:
        """Make the clone; what is left to do then."""
        name = container.name
        if source is None:
            raise ValueError(f"{name}: nobody has looked its golden container up")
        # One of its name that is gone may have left a pin, which would be for another key.
        self._known_hosts.forget(name)
        node = container.node or source.node
        more = ({"pool": container.shape.pool} if container.shape.pool else {}) | (
            {"target": node} if node != source.node else {}
        )
        # Proxmox locks what it clones: those of one golden container come one after the other.
        with (
            self._turns.setdefault(source.vmid, threading.Lock()),
            self._progress.step(name, f"clone the golden container of {source.of}, {source.vmid}"),
        ):
            try:
                self._warn(
                    name,
                    golden_templates.clone(
                        self._client,
                        source.node,
                        source.vmid,
                        container.vmid,
                        f"{name}: cloning it",
                        hostname=name,
                        storage=container.storage,
                        description=_description(container, source),
                        **more,
                    ),
                )
            except ProxmoxError as error:
                self._builder.say_if_taken(container, error)
                if node == source.node:
                    raise
                raise HomelabError(
                    f"{name}: it cannot be cloned to node {node}",
                    f"Its golden container {source.vmid} is on node {source.node}. {error.details}",
                    f"Write `node: {source.node}` at {name}; or bake {source.of} again, with `--storage` for one that "
                    "the nodes share.",
                ) from error
        plan = plan_up(self._inventory, {container.vmid: self._found(container, node)}, [name])
        plan.refuse_unsafe()
        return plan.actions

    def _finish(self, container: Container, node: str) -> None:
        step, name = self._progress.step, container.name
        others_key = self._found(container, node).unfinished
        if others_key is None:
            return
        with step(name, "wait for SSH, and make its own SSH host keys and machine-id"):
            restart = renew_identity(self._reach, container, others_key, self._known_hosts)
        if restart:
            found = self._found(container, node)
            self._builder.execute([Stop(container, found, ("SSH host keys", "machine-id")), Start(container, found)])
        with step(name, "wait for SSH, with its own host key"):
            verify_identity(self._reach, container, self._known_hosts)
        description = str(self._found(container, node).config.get("description", ""))
        golden_templates.put(
            self._client, node, container.vmid, description=description_metadata.without_unfinished_mark(description)
        )

    def _found(self, container: Container, node: str) -> ObservedGuest:
        found = inspect_container(self._client, container, node)
        if found is None or found.shape is None:
            raise HomelabError(
                f"{container.name} has gone while it was made",
                f"{container.vmid} is not on node {node} any more, or not ours.",
                "Run the same command again: it sees what is there.",
            )
        return found

    def _warn(self, name: str, warnings: list[str]) -> None:
        for warning in warnings:
            self._progress.note(name, warning)


def _description(container: Container, source: GoldenContainer) -> str:
    made = description_metadata.with_source(container.shape.description, source.template, datetime.now(UTC).date())
    return description_metadata.with_unfinished_mark(
        description_metadata.with_clone_source(made, source.of, source.made), source.fingerprint
    )
