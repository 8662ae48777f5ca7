"""The rows of a query in JSON's types."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any


def to_json(value: Any) -> Any:
    """Convert a value to JSON's types: times become ISO 8601, binary values base64, NaN and infinity null."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def unique_names(names: Sequence[str]) -> list[str]:
    """Number duplicate column names (`a`, `a_1`, …), so that no value is lost in JSON."""
    taken: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        while (candidate := f"{name}_{taken[name]}" if name in taken else name) in found:
            taken[name] = taken.get(name, 0) + 1
        found.append(candidate)
    return found
