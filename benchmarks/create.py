"""Creation of containers in parallel, compared with the slowest single one of the same run."""

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

_CREATE, _START = 3.0, 0.5  # seconds of the node's tasks for one container


class Stopwatch(SilentProgress):
    """A progress display that adds up the seconds of each container's steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[Callable[[str], None]]:
        """See Progress.step."""
        started = time.perf_counter()
        with super().step(host, title) as update:
            yield update
        self.seconds[host] = self.seconds.get(host, 0.0) + time.perf_counter() - started


def create_all(place: Site, node: Node) -> tuple[float, float]:
    """Create all containers of an inventory; return the total seconds, and those of the slowest container."""
    node.ask(on_node.empty)
    watch = Stopwatch()
    return run_up(place, watch), max(watch.seconds.values())


def run_up(place: Site, progress: Progress | None = None) -> float:
    """Run `up` in this process without waiting for SSH, as no container runs; return its seconds."""
    inventory = place.inventory
    started = time.perf_counter()
    session = Session.open(inventory, progress or SilentProgress())
    up(replace(session, connector=lambda *_: NoHost()), confirm=lambda plan: True)
    return time.perf_counter() - started


def parallel(folder: Path, node: Node) -> Iterator[Row]:
    """Create 3, 10 and 30 containers with realistic task times."""
    for count in (3, 10, 30):
        subfolder = folder / str(count)
        subfolder.mkdir()
        place = site(subfolder, node, count)
        max_parallel = place.inventory.endpoint.max_parallel
        node.ask(on_node.slow_tasks, _CREATE, _START)
        with node.counting() as seen:
            total, slowest = create_all(place, node)
        rounds = ceil(count / max_parallel)
        ratio = total / slowest / rounds
        failed = node.ask(on_node.failed_tasks)
        node.ask(on_node.slow_tasks, 0.0, 0.0)
        errors = seen[0].refused + len(failed)
        yield Row(
            f"create {count} containers, {min(count, max_parallel)} at a time; {errors} errors",
            f"{total:.1f} s",
            f"{slowest:.1f} s (the slowest one) x {rounds}",
            f"{ratio:.2f}x",
            "≤ 1.3x",
            ratio <= 1.3 and not errors,
        )
