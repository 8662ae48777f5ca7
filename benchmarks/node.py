"""The tests' Proxmox node in its own process, so that it takes no time from the measured programs."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.integration.fakenode import FakeNode, certificate, serving

SECRET = "a-token-for-the-benchmark"  # noqa: S105 - of a node on loopback that runs for a minute


class CountingNode(FakeNode):
    """A node that also counts connections, by the port of the client."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.peers: set[Any] = set()
        self.refused = 0
        self.start_seconds = 0.0

    async def _start_steps(self, ct: Any, user: str, skiplock: bool = False) -> None:
        ct.start_secs = self.start_seconds
        await super()._start_steps(ct, user, skiplock)

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> Any:
        if request.transport is not None:
            self.peers.add(request.transport.get_extra_info("peername"))
        answer = await super()._middleware(request, handler)
        self.refused += answer.status >= 400
        return answer


@dataclass(frozen=True)
class Seen:
    """The counts of a node: API calls, connections, and refused calls."""

    calls: int
    connections: int
    refused: int


@dataclass
class Node:
    """A handle on the node's process."""

    port: int
    fingerprint: str
    _pipe: Connection

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of this module on the node, in its process, and return the result."""
        self._pipe.send((function, arguments))
        return self._pipe.recv()

    @contextmanager
    def counting(self) -> Iterator[list[Seen]]:
        """Count during the block; at its end, the list contains the counts."""
        self.ask(reset_counts)
        seen: list[Seen] = []
        yield seen
        seen.append(self.ask(counts))


def reset_counts(pve: CountingNode) -> None:
    """Set all counts to zero."""
    pve.requests.clear()
    pve.peers.clear()
    pve.refused = 0


def counts(pve: CountingNode) -> Seen:
    """Return the counts."""
    return Seen(len(pve.requests), len(pve.peers), pve.refused)


def slow_tasks(pve: CountingNode, create: float, start: float) -> None:
    """Set the seconds of tasks."""
    pve.time_scale = 1.0
    pve.ct_secs["create"], pve.start_seconds = create, start


def latency(pve: CountingNode, seconds: float) -> None:
    """Set the seconds of each answer."""
    pve.time_scale = 1.0
    pve.slow_network(latency=seconds)


def empty(pve: CountingNode) -> None:
    """Remove all containers."""
    pve.cts.clear()
    pve.tasklog.clear()


def failed_tasks(pve: CountingNode) -> list[str]:
    """Return the tasks that did not succeed."""
    return [task["upid"] for task in pve.tasklog if task.get("exitstatus") != "OK"]


def reads(pve: CountingNode) -> list[str]:
    """Return the paths of all reads."""
    return [path for method, path, _ in pve.requests if method == "GET"]


@contextmanager
def node(folder: Path) -> Iterator[Node]:
    """Run a node on a free port of loopback during the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    try:
        port, fingerprint = ours.recv()
        yield Node(port, fingerprint, ours)
    finally:
        ours.send(None)
        process.join(10)


def _serve(folder: Path, pipe: Connection) -> None:
    pair, fingerprint = certificate(folder)
    pve = CountingNode()
    with serving(pve, pair):
        pipe.send((pve.port, fingerprint))
        while (message := pipe.recv()) is not None:
            function, arguments = message
            pipe.send(function(pve, *arguments))
