"""The command line by itself."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import ran
from benchmarks.table import Row

_TIMES = 9


def command_line(folder: Path) -> Iterator[Row]:
    """`homelab --help` beside a Python that does nothing, in turns."""
    ours, bare = [], []
    for _ in range(_TIMES + 1):  # the first compiles
        bare.append(ran([sys.executable, "-c", "pass"], folder).cpu)
        ours.append(ran([sys.executable, "-m", "homelab", "--help"], folder).cpu)
    mine, floor = statistics.median(ours[1:]), statistics.median(bare[1:])
    yield Row(
        "`homelab --help`: CPU",
        f"{mine:.3f} s",
        f"{floor:.3f} s (Python)",
        f"{mine - floor:.3f} s more",
        "≤ 0.15 s more",
        mine - floor <= 0.15,
    )
