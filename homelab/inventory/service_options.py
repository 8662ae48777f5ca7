"""A service's options: the fields of its dataclass are the schema."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from homelab.inventory.section import Section
from homelab.model import Service

_LOW, _HIGH = 1, 65535


def read(table: Section, service: type[Service]) -> Service | None:
    """The service with its options, or None when some of them are wrong."""
    before = len(table.faults.found)
    hints = get_type_hints(service)
    options = {field.name: _option(table, field, hints[field.name]) for field in _fields(service)}
    table.close()
    return service(**options) if len(table.faults.found) == before else None


def names(service: type[Service]) -> Iterator[str]:
    """The names of a service's options."""
    return (field.name for field in _fields(service))


def _fields(service: type[Service]) -> tuple[Field[Any], ...]:
    return fields(service)  # type: ignore[arg-type]


def _option(table: Section, field: Field[Any], kind: Any) -> Any:
    default = {} if field.default is MISSING else {"default": field.default}
    if field.default_factory is not MISSING:
        default = {"default": field.default_factory()}
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is Literal:
        return table.choice(field.name, get_args(kind), **default)
    if get_origin(kind) is tuple:
        return _texts(table, field.name, **default)
    if kind is bool:
        return table.flag(field.name, **default)
    if kind is int:
        limits = field.metadata
        return table.whole(field.name, low=limits.get("low", _LOW), high=limits.get("high", _HIGH), **default)
    if kind is str:
        return table.text(field.name, **field.metadata, **default)
    raise TypeError(f"an option of a service cannot be of type {kind}")


def _texts(table: Section, key: str, **default: Any) -> tuple[str, ...]:
    items = table.items(key, says="a list of texts", **default) or ()
    for index, item in enumerate(items):
        if not isinstance(item, str):
            table.fault("must be some text", key, index)
    return tuple(items)
