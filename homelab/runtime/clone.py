"""Containers cloned from golden ones, until they are containers like any other."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from homelab.errors import HomelabError
from homelab.model import Container
from homelab.plan import Action, Clone, ObservedGuest, RegenerateIdentity, Start, Stop, plan_up
from homelab.plan.golden_container import GoldenContainer
from homelab.proxmox import Client, PlanExecutor, description_metadata, golden_templates
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.inspect import inspect_container
from homelab.runtime.clone_identity import renew_identity, verify_identity
from homelab.runtime.session import Session


class Cloner:
    """Makes clones and resumes interrupted ones; may be used from several threads for different containers.

    The container itself records its progress: its description marks it as unfinished until the very end.
    """

    def __init__(self, session: Session, client: Client, executor: PlanExecutor) -> None:
        self._session, self._client, self._executor = session, client, executor
        self._locks: dict[int, threading.Lock] = {}

    def execute(self, actions: Sequence[Action]) -> None:
        """Execute one container's actions in order; the last one is a Clone or a RegenerateIdentity."""
        first = actions[0]
        if isinstance(first, Clone):
            actions = self._clone(first.container, first.golden)
        last = actions[-1]
        if not isinstance(last, RegenerateIdentity):
            raise ValueError(f"{last.container.name} is not unfinished")
        if others := [action for action in actions if action is not last]:
            self._executor.execute(others)
        self._finish(last.container, last.found.node)

    def _clone(self, container: Container, source: GoldenContainer | None) -> Sequence[Action]:
        """Make the clone; return the actions that remain."""
        name = container.name
        if source is None:
            raise ValueError(f"{name}: its golden container was not looked up")
        # A removed container of the same name may have left a pin for another key.
        self._session.known_hosts.forget(name)
        node = container.node or source.node
        more = ({"pool": container.shape.pool} if container.shape.pool else {}) | (
            {"target": node} if node != source.node else {}
        )
        # Proxmox locks the source of a clone, so clones of one golden container are made one by one.
        with (
            self._locks.setdefault(source.vmid, threading.Lock()),
            self._session.progress.step(name, f"clone the golden container of {source.of}, {source.vmid}"),
        ):
            try:
                warnings = golden_templates.clone(
                    self._client,
                    source.node,
                    source.vmid,
                    container.vmid,
                    f"clone {name}",
                    hostname=name,
                    storage=container.storage,
                    description=_description(container, source),
                    **more,
                )
            except ProxmoxError as error:
                self._executor.say_if_taken(container, error)
                if node == source.node:
                    raise
                raise HomelabError(
                    f"Cannot clone {name} to node {node}: its golden container is on node {source.node}",
                    f"The golden container is {source.vmid}. {error.details}",
                    f"Write `node: {source.node}` at {name}; or run `homelab golden create {source.of}` again with "
                    "`--storage` for one that the nodes share.",
                ) from error
        for warning in warnings:
            self._session.progress.note(name, warning)
        plan = plan_up(self._session.inventory, {container.vmid: self._find(container, node)}, [name])
        plan.refuse_unsafe()
        return plan.actions

    def _finish(self, container: Container, node: str) -> None:
        step, name = self._session.progress.step, container.name
        source_key = self._find(container, node).unfinished
        if source_key is None:
            return
        with step(name, "wait for SSH; make SSH host keys and a machine-id of its own"):
            restart = renew_identity(self._session, container, source_key)
        if restart:
            found = self._find(container, node)
            self._executor.execute([Stop(container, found, ("SSH host keys", "machine-id")), Start(container, found)])
        with step(name, "wait for SSH with its own host key"):
            verify_identity(self._session, container)
        description = str(self._find(container, node).config.get("description", ""))
        golden_templates.put(
            self._client, node, container.vmid, description=description_metadata.without_unfinished_mark(description)
        )

    def _find(self, container: Container, node: str) -> ObservedGuest:
        found = inspect_container(self._client, container, node)
        if found is None or found.shape is None:
            raise HomelabError(
                f"Cannot finish {container.name}: it disappeared meanwhile",
                f"{container.vmid} is not on node {node} any more, or does not carry this lab's tags.",
                "Run the same command again.",
            )
        return found


def _description(container: Container, source: GoldenContainer) -> str:
    made = description_metadata.with_source(container.shape.description, source.template, datetime.now(UTC).date())
    return description_metadata.with_unfinished_mark(
        description_metadata.with_clone_source(made, source.of, source.made), source.fingerprint
    )
