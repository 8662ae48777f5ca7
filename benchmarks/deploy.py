"""Benchmarks of `homelab deploy`: `python -m benchmarks.deploy [name …]`, in its own lab, as root.

help, hosts, noop, distance, change, memory and pipelines take six minutes together; cold, repeated five times, takes
ten minutes and 25 GB. The lab is removed at the end, even after a failure, Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ansible
from benchmarks.deploys.cold import cold
from benchmarks.deploys.command_line import command_line
from benchmarks.deploys.deployed import Deployed, change, distance, memory, noop
from benchmarks.deploys.hosts import hosts
from benchmarks.deploys.pipelines import second_pipeline
from benchmarks.stack import lab, whole_stack
from benchmarks.table import Row, print_table
from tests.network_guard import sitecustomize as sitecustomize  # the import installs it

_DEPLOYED: dict[str, Callable[[Deployed], Iterator[Row]]] = {
    "noop": noop,
    "distance": distance,
    "change": change,
    "memory": memory,
    "pipelines": second_pipeline,  # last, as it adds a pipeline to the stack
}
ALL = ("help", "hosts", *_DEPLOYED, "cold")
_ROUNDS = 5  # of cold deploys: the response time of package registries varies by half within minutes


def measured(names: Collection[str]) -> Iterator[Row]:
    """Yield the rows of the named benchmarks, in an order in which none disturbs another."""
    if "help" in names:
        with tempfile.TemporaryDirectory() as folder:
            yield from command_line(Path(folder))
    if set(names) == {"help"}:
        return
    with lab():
        if "hosts" in names:
            with tempfile.TemporaryDirectory() as folder:
                yield from hosts(Path(folder))
        if set(_DEPLOYED) & set(names):
            with tempfile.TemporaryDirectory() as folder:
                stack = whole_stack(Path(folder))
                stack.recreate()
                place = Deployed(stack, stack.homelab("deploy"))
                for name, rows in _DEPLOYED.items():
                    if name in names:
                        yield from rows(place)
                stack.stop()
        if "cold" in names:
            with tempfile.TemporaryDirectory() as folder:
                yield from cold(Path(folder), _ROUNDS)


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"Cannot run {', '.join(unknown)}: the benchmarks are {', '.join(ALL)}.")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    peers = ansible.installed() if {"noop", "change", "cold"} & set(names) else "no peer"
    started, load = time.monotonic(), os.getloadavg()[0]
    print_table(
        measured(names),
        lambda: (
            f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {peers}; "
            f"{os.cpu_count()} cores, load {load:.1f} at the start and {os.getloadavg()[0]:.1f} at the end; took "
            f"{time.monotonic() - started:.0f} s."
        ),
    )


if __name__ == "__main__":
    main()
