"""What a measurement leaves: rows of one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure beside what it is held against; `aim` is what the project promises, `good` whether it is kept."""

    what: str
    ours: str
    beside: str
    ratio: str
    aim: str
    good: bool


HEAD = ("what", "homelab", "beside it", "ratio", "aim", "kept")


def markdown(rows: list[Row]) -> str:
    """The rows as a table for people and for docs/benchmarks.md."""
    lines = [HEAD, *((r.what, r.ours, r.beside, r.ratio, r.aim, "yes" if r.good else "NO") for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    cells = [" | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines]
    cells.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in cells)
