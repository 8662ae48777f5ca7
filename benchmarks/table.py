"""What a measurement leaves: rows of one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True)
class Row:
    """A figure beside what it is held against; `aim` is what the project promises, `good` whether it is kept."""

    what: str
    ours: str
    beside: str
    ratio: str
    aim: str
    good: bool


def shown(rows: Iterable[Row], stamp: Callable[[], str]) -> NoReturn:
    """Print each row as it comes, then the table and what `stamp` says of the run; exit 1 if an aim is missed."""
    found = []
    for row in rows:
        print(f"· {row.what}: {row.ours} | {row.beside} | {row.ratio}", file=sys.stderr, flush=True)
        found.append(row)
    print(f"{markdown(found)}\n\n{stamp()}")
    sys.exit(any(not row.good for row in found))


HEAD = ("what", "homelab", "beside it", "ratio", "aim", "kept")


def markdown(rows: list[Row]) -> str:
    """The rows as a table for people and for docs/benchmarks.md."""
    lines = [HEAD, *((r.what, r.ours, r.beside, r.ratio, r.aim, "yes" if r.good else "NO") for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    cells = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    cells.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in cells)
