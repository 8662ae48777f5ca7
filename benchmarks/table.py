"""The numbers on the command line of a benchmark, and the table of its results."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Row:
    """A figure with its reference; `aim` is the promise of the project, `met` is True if it is kept."""

    title: str
    ours: str
    reference: str
    ratio: str
    aim: str
    met: bool


def numbers(*defaults: int) -> list[int]:
    """Return the numbers on the command line; a default for each that is missing."""
    given = [int(word) for word in sys.argv[1:]]
    return [*given, *defaults[len(given) :]][: len(defaults)]


def machine() -> str:
    """Return Python's version, and the load of this machine."""
    return f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."


def print_table(rows: Iterable[Row], stamp: Callable[[], str] = machine) -> NoReturn:
    """Print each row when it is measured, then the table and the `stamp` of the run; exit 1 if an aim is missed."""
    found = []
    for row in rows:
        print(f"· {row.title}: {row.ours} | {row.reference} | {row.ratio}", file=sys.stderr, flush=True)
        found.append(row)
    print(f"{markdown(found)}\n\n{stamp()}")
    sys.exit(any(not row.met for row in found))


HEAD = ("measurement", "homelab", "compared with", "ratio", "aim", "met")


def markdown(rows: list[Row]) -> str:
    """Return the rows as a Markdown table, as in docs/benchmarks.md."""
    lines = [HEAD, *((r.title, r.ours, r.reference, r.ratio, r.aim, "yes" if r.met else "NO") for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    cells = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    cells.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in cells)
