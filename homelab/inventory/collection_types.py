"""Types of inventory values that are made of others: lists, mappings, alternatives."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from homelab.inventory.section import Section
from homelab.inventory.value_types import INVALID, ValueType, anchored, nullable
from homelab.inventory.yaml_source import KeyPath
from homelab.model.options import Option


class ListOf(ValueType):
    """A list with items of one type; `make` converts it."""

    def __init__(self, item: ValueType, make: Callable[[Iterable[Any]], Any], option: Option) -> None:
        self._item, self._make, self._empty, self.hidden = item, make, option.empty, item.hidden
        super().__init__(option.expected or "a list")

    def accepts(self, value: object) -> bool:
        return isinstance(value, list)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, list):
            return self.refuse(value, section, at)
        if not value and self._empty:
            section.problem(self._empty, *at)
            return INVALID
        items = [self._item.read(each, section, (*at, index)) for index, each in enumerate(value)]
        return INVALID if any(item is INVALID for item in items) else self._make(items)

    def schema(self) -> Mapping[str, Any]:
        schema = {"type": "array", "items": self._item.json_schema()}
        return schema | ({"minItems": 1} if self._empty else {})


class MappingOf(ValueType):
    """A mapping of arbitrary keys to values of one type."""

    def __init__(self, item: ValueType, option: Option) -> None:
        self._item, self._keys, self._empty, self.hidden = item, option.keys, option.empty, item.hidden
        super().__init__(option.expected or "a mapping")

    def accepts(self, value: object) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, section, at)
        if not value and self._empty:
            section.problem(self._empty, *at)
        found = {}
        for key, item in value.items():
            if self._keys and not re.fullmatch(self._keys.pattern, key):
                section.problem(self._keys.error, *at, key)
            # Null counts as an empty mapping.
            each = {} if item is None and self._item.accepts({}) else item
            result = self._item.read(each, section, (*at, key))
            if result is not INVALID:
                found[key] = result
        return found

    def schema(self) -> Mapping[str, Any]:
        item = self._item.json_schema()
        schema = {"type": "object", "additionalProperties": nullable(item) if self._item.allows_empty else item}
        if self._keys:
            schema["propertyNames"] = {"pattern": anchored(self._keys.pattern)}
        return schema | ({"minProperties": 1} if self._empty else {})


class Either(ValueType):
    """A value of the first of several types that accepts its kind."""

    def __init__(self, types: Sequence[ValueType], option: Option) -> None:
        self._types = types
        expected = option.expected or ", or ".join(each.expected for each in types)
        super().__init__(expected)
        self.hidden = any(each.hidden for each in types)

    def accepts(self, value: object) -> bool:
        return any(each.accepts(value) for each in self._types)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        for each in self._types:
            if each.accepts(value):
                return each.read(value, section, at)
        return self.refuse(value, section, at)

    def default(self, value: Any, section: Section, at: KeyPath) -> Any:
        return section.resolve(value, *at) if isinstance(value, Path) else value

    def schema(self) -> Mapping[str, Any]:
        return {"anyOf": [each.json_schema() for each in self._types]}
