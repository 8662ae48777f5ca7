"""Making containers side by side, beside the slowest single one of the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from pathlib import Path

from benchmarks import node as on_node
from benchmarks.node import Node
from benchmarks.site import Site, site
from benchmarks.table import Row
from homelab.commands.up import up
from homelab.progress import Progress, SilentProgress
from homelab.runtime.session import Session
from tests.support import NoHost

_CREATE, _START = 3.0, 0.5  # seconds that the node takes for the tasks of one container


class Stopwatch(SilentProgress):
    """Takes the time of each container's steps, in seconds."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[Callable[[str], None]]:
        """See Progress.step."""
        started = time.perf_counter()
        with super().step(who, what) as say:
            yield say
        self.took[who] = self.took.get(who, 0.0) + time.perf_counter() - started


def made(place: Site, node: Node) -> tuple[float, float]:
    """Make all containers of an inventory: seconds in all, and of the slowest single one."""
    node.ask(on_node.empty)
    watch = Stopwatch()
    return again(place, watch), max(watch.took.values())


def again(place: Site, progress: Progress | None = None) -> float:
    """`up` in this process, without a wait for SSH: nobody listens there. Seconds."""
    inventory = place.inventory
    started = time.perf_counter()
    session = Session.open(inventory, progress or SilentProgress())
    up(replace(session, connector=lambda *_: NoHost()), confirm=lambda plan: True)
    return time.perf_counter() - started


def side_by_side(folder: Path, node: Node) -> Iterator[Row]:
    """3, 10 and 30 creates with the node's task times on."""
    for count in (3, 10, 30):
        below = folder / str(count)
        below.mkdir()
        place = site(below, node, count)
        at_once = place.inventory.endpoint.max_parallel
        node.ask(on_node.slow_tasks, _CREATE, _START)
        with node.counting() as seen:
            total, slowest = made(place, node)
        rounds = ceil(count / at_once)
        ratio = total / slowest / rounds
        failed = node.ask(on_node.unsuccessful)
        node.ask(on_node.slow_tasks, 0.0, 0.0)
        bad = seen[0].refused + len(failed)
        yield Row(
            f"create {count} containers, {min(count, at_once)} at a time; {bad} errors",
            f"{total:.1f} s",
            f"{slowest:.1f} s (the slowest one) x {rounds}",
            f"{ratio:.2f}x",
            "≤ 1.3x",
            ratio <= 1.3 and not bad,
        )
