"""The start of the command line."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import run_program
from benchmarks.table import Row

_RUNS = 9


def command_line(folder: Path) -> Iterator[Row]:
    """Compare `homelab --help` with an empty Python program, in turns."""
    ours, bare = [], []
    for _ in range(_RUNS + 1):  # the first run compiles
        bare.append(run_program([sys.executable, "-c", "pass"], folder).cpu)
        ours.append(run_program([sys.executable, "-m", "homelab", "--help"], folder).cpu)
    mine, floor = statistics.median(ours[1:]), statistics.median(bare[1:])
    yield Row(
        "`homelab --help`: CPU",
        f"{mine:.3f} s",
        f"{floor:.3f} s (Python)",
        f"{mine - floor:.3f} s more",
        "≤ 0.15 s more",
        mine - floor <= 0.15,
    )
