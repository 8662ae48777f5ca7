"""Values as bars in one line of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int, highest: float) -> str:
    """Return the last values as bars, `width` columns wide; more values than columns are averaged."""
    if not values or not width or highest <= 0:
        return " " * width
    if len(values) > width:
        edges = [round(number * len(values) / width) for number in range(width + 1)]
        groups = [values[begin:end] for begin, end in pairwise(edges)]
        values = [sum(group) / len(group) for group in groups]
    bars = (_BARS[min(int(max(value, 0) / highest * len(_BARS)), len(_BARS) - 1)] for value in values)
    return "".join(bars).rjust(width)
