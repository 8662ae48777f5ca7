"""The tests' Proxmox node in a process of its own, so that it takes no time from those that are measured."""

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

SECRET = "a-token-for-the-benchmark"  # noqa: S105 - of a node that lives for a minute, on loopback


class CountingNode(FakeNode):
    """A node that also counts connections: the client's ports from which calls came."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.peers: set[Any] = set()
        self.refused = 0
        self.starting = 0.0  # seconds that a start takes

    async def _start_steps(self, ct: Any, user: str, skiplock: bool = False) -> None:
        ct.start_secs = self.starting
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
    """What the node saw: API calls, connections, and calls that it refused."""

    calls: int
    connections: int
    refused: int


@dataclass
class Node:
    """The node from outside."""

    port: int
    fingerprint: str
    _pipe: Connection

    def ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of this module on the node, in its process; the answer."""
        self._pipe.send((question, arguments))
        return self._pipe.recv()

    @contextmanager
    def counting(self) -> Iterator[list[Seen]]:
        """What the node sees meanwhile, in a list of one when it is over."""
        self.ask(forget)
        seen: list[Seen] = []
        yield seen
        seen.append(self.ask(counts))


def forget(pve: CountingNode) -> None:
    """Count anew."""
    pve.requests.clear()
    pve.peers.clear()
    pve.refused = 0


def counts(pve: CountingNode) -> Seen:
    """What was seen since then."""
    return Seen(len(pve.requests), len(pve.peers), pve.refused)


def slow_tasks(pve: CountingNode, create: float, start: float) -> None:
    """Let tasks take their time: seconds."""
    pve.time_scale = 1.0
    pve.ct_secs["create"], pve.starting = create, start


def latency(pve: CountingNode, seconds: float) -> None:
    """Let every answer take that long."""
    pve.time_scale = 1.0
    pve.slow_network(latency=seconds)


def empty(pve: CountingNode) -> None:
    """Remove all containers."""
    pve.cts.clear()
    pve.tasklog.clear()


def unsuccessful(pve: CountingNode) -> list[str]:
    """The tasks that have not ended well."""
    return [task["upid"] for task in pve.tasklog if task.get("exitstatus") != "OK"]


def reads(pve: CountingNode) -> list[str]:
    """The paths that were read."""
    return [path for method, path, _ in pve.requests if method == "GET"]


@contextmanager
def node(folder: Path) -> Iterator[Node]:
    """A node on a free port of loopback, until the end of the block."""
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
        while (asked := pipe.recv()) is not None:
            question, arguments = asked
            pipe.send(question(pve, *arguments))
