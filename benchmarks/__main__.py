"""Run every benchmark and print one table: `python -m benchmarks [name …]`."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import ansible, create, noop
from benchmarks.node import Node, node
from benchmarks.table import Row, print_table
from tests.network_guard import sitecustomize as sitecustomize  # the import installs it

ALL: dict[str, Callable[[Path, Node], Iterator[Row]]] = {
    "noop": noop.three,
    "create": create.parallel,
    "hundred": noop.hundred,
}


def measured(names: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of the named benchmarks, each on its own node."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder, node(Path(folder)) as running:
            yield from ALL[name](Path(folder), running)


def main() -> None:
    """Run the named benchmarks, or all. The exit code is 1 if an aim is missed."""
    names = sys.argv[1:] or list(ALL)
    if unknown := set(names) - set(ALL):
        raise SystemExit(f"Cannot run {', '.join(unknown)}: the benchmarks are {', '.join(ALL)}.")
    peer = ansible.installed() if "noop" in names else "no peer"
    started, load = time.monotonic(), os.getloadavg()[0]
    print_table(
        measured(names),
        lambda: (
            f"{datetime.now(UTC):%Y-%m-%d}, Python {platform.python_version()}, {peer}; "
            f"{os.cpu_count()} cores, load {load:.1f} at the start; took {time.monotonic() - started:.0f} s."
        ),
    )


if __name__ == "__main__":
    main()
