"""Rules of JSON Schema that concern several keys of a mapping; null counts as not given."""

from __future__ import annotations

from typing import Any

_GIVEN: dict[str, Any] = {"not": {"type": "null"}}


def given(key: str) -> dict[str, Any]:
    """Return the schema of mappings in which the key is given."""
    return {"required": [key], "properties": {key: _GIVEN}}


def together(key: str, other: str) -> dict[str, Any]:
    """Return the rule that a key needs another one."""
    return {"if": given(key), "then": given(other)}


def exclusive(key: str, other: str) -> dict[str, Any]:
    """Return the rule that two keys cannot be combined."""
    return {"if": given(key), "then": {"properties": {other: {"type": "null"}}}}
