"""The declaration of a mapping: a dataclass with its keys as annotated fields."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from inspect import get_annotations
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from homelab.inventory.collection_types import Either, ListOf, MappingOf
from homelab.inventory.errors import did_you_mean
from homelab.inventory.section import Section
from homelab.inventory.value_types import (
    INVALID,
    AnyValue,
    Choice,
    FilePath,
    Flag,
    Measure,
    Number,
    SecretReference,
    Text,
    ValueType,
    nullable,
)
from homelab.inventory.yaml_source import KeyPath
from homelab.model.options import Duration, Option, SecretName, Size

EXTENSION = "x-"  # the prefix of keys at the root that are ignored: a place for YAML anchors


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping; `default` is MISSING if it is required."""

    name: str
    type: ValueType
    option: Option
    default: Any

    def default_in(self, section: Section) -> Any:
        """Return the default for a section; None for a required key."""
        return None if self.default is MISSING else self.type.default(self.default, section, (self.name,))

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the value; null is allowed unless the key is required."""
        schema = self.type.json_schema()
        if self.default is not MISSING:
            schema = nullable(schema)
        if self.option.description:
            schema = {"description": self.option.description, **schema}
        if self.default is not MISSING and self.default not in (None, ""):
            schema["default"] = plain(self.default)
        if self.option.examples:
            schema["examples"] = [plain(example) for example in self.option.examples]
        return schema


class Declaration:
    """The keys of a mapping, from the fields of a dataclass."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        hints = _hints(cls)
        own = get_annotations(cls)
        ordered = sorted(fields(cls), key=lambda field: field.name not in own)  # before those of the base class
        given = [field for field in ordered if field.init]
        self.keys = {_key_name(field.name): _key(field, hints[field.name], cls) for field in given}
        self.required = [key for key in self.keys.values() if key.default is MISSING]

    def read(self, section: Section) -> dict[str, Any]:
        """Return the valid values that are given; record missing keys, unknown keys and invalid values."""
        values = {}
        for name, value in section.data.items():
            key = self.keys.get(name)
            if key is None:
                if section.keys or not name.startswith(EXTENSION):
                    section.problem(f"unknown key; {did_you_mean(name, self.keys)}", name)
            elif value is not None:
                result = key.type.read(value, section, (name,))
                if result is not INVALID:
                    values[name] = result
        for key in self.required:
            if section.data.get(key.name) is None:
                section.problem(f"is missing: {key.type.expected}", key.name)
        return values

    def build(self, section: Section) -> Any:
        """Return the dataclass with the values and defaults, or INVALID.

        A required value that is missing or invalid is None: other values can be checked all the same. A dataclass with
        `__post_init__` is built from valid values only; its ValueError becomes a problem.
        """
        before = len(section.problems.found)
        values = self.read(section)
        if len(section.problems.found) > before and hasattr(self.cls, "__post_init__"):
            return INVALID
        try:
            return self.cls(
                **{
                    field_name(name): values[name] if name in values else key.default_in(section)
                    for name, key in self.keys.items()
                }
            )
        except ValueError as error:
            section.problem(str(error))
            return INVALID

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the mapping."""
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {key.name: key.json_schema() for key in self.keys.values()},
            "additionalProperties": False,
        }
        if self.required:
            schema["required"] = [key.name for key in self.required]
        return schema


def declaration_of(cls: type[Any]) -> Declaration:
    """Return the declaration of a dataclass. Raises TypeError for a field that an inventory cannot have."""
    if cls not in _declarations:
        _declarations[cls] = Declaration(cls)
    return _declarations[cls]


_declarations: dict[type[Any], Declaration] = {}


class SectionOf(ValueType):
    """A mapping that a dataclass declares; reading checks only that it is a mapping, and returns it as a Section."""

    def __init__(self, cls: type[Any], expected: str, schema: Mapping[str, Any] | None = None) -> None:
        self.declaration = declaration_of(cls)
        super().__init__(expected)
        self.allows_empty = not self.declaration.required
        self.extra_schema = schema or {}

    def accepts(self, value: object) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, dict):
            return self.refuse(value, section, at)
        return section.at(at, value)

    def schema(self) -> Mapping[str, Any]:
        return self.declaration.json_schema()


class Nested(SectionOf):
    """A mapping that a dataclass declares, read into it; with a shorthand, the value of that key alone, too."""

    def __init__(self, cls: type[Any], option: Option) -> None:
        super().__init__(cls, option.expected or "a mapping of options")
        self._shorthand = self.declaration.keys[option.shorthand] if option.shorthand else None
        self.hidden = any(key.type.hidden for key in self.declaration.keys.values())

    def accepts(self, value: object) -> bool:
        return super().accepts(value) or (self._shorthand is not None and self._shorthand.type.accepts(value))

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if self._shorthand and self._shorthand.type.accepts(value):
            value = {self._shorthand.name: value}
        below = super().read(value, section, at)
        return below if below is INVALID else self.declaration.build(below)

    def schema(self) -> Mapping[str, Any]:
        mapping = super().schema()
        return {"anyOf": [self._shorthand.json_schema(), mapping]} if self._shorthand else mapping


def plain(value: Any) -> Any:
    """Return a value as the inventory writes it, for JSON."""
    match value:
        case SecretName():
            return {"secret": str(value)}
        case Enum():
            return value.value
        case str() | Path():
            return str(value)
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case set() | frozenset():
            return sorted(map(plain, value))
        case list() | tuple():
            return [plain(item) for item in value]
    if is_dataclass(value):
        return {_key_name(field.name): plain(getattr(value, field.name)) for field in fields(value)}
    return value


def field_name(key: str) -> str:
    """Return the field of a key: a keyword of Python has an underscore at its end, such as `from_`."""
    return f"{key}_" if iskeyword(key) else key


def _key_name(field: str) -> str:
    return field[:-1] if field.endswith("_") and iskeyword(field[:-1]) else field


def _hints(cls: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{cls.__module__}.{cls.__qualname__}: cannot resolve the annotations of its fields: {error}; import the "
            "types at the top of the module, not under TYPE_CHECKING"
        ) from error


def _key(field: Field[Any], hint: Any, cls: type[Any]) -> Key:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    try:
        return Key(_key_name(field.name), value_type(hint), _option_of(hint), default)
    except TypeError as error:
        raise TypeError(f"{cls.__module__}.{cls.__qualname__}.{field.name}: {error}") from None


def _option_of(hint: Any) -> Option:
    """Return the Option of an annotation or, if it is a union, of a part of it."""
    parts = [hint, *(get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ())]
    metadata = [each for part in parts for each in getattr(part, "__metadata__", ())]
    return next((each for each in metadata if isinstance(each, Option)), Option())


def value_type(hint: Any) -> ValueType:
    """Return the type of values that an annotation describes. Raises TypeError for an annotation without a meaning."""
    option = _option_of(hint)
    if get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        for each in metadata:
            if isinstance(each, ValueType):
                return each
    kind = _generic(hint, option) if get_origin(hint) else _simple(hint, option)
    if option.schema:
        kind.extra_schema = option.schema
    return kind


def _generic(hint: Any, option: Option) -> ValueType:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [part for part in args if part is not types.NoneType]
        kinds = [value_type(Annotated[part, option]) for part in parts]
        return kinds[0] if len(kinds) == 1 else Either(kinds, option)
    if origin is Literal:
        return Choice(args)
    if origin in (list, frozenset):
        return ListOf(value_type(args[0]), origin, option)
    if origin is Sequence or (origin is tuple and args[1:] == (Ellipsis,)):
        return ListOf(value_type(args[0]), tuple, option)
    if isinstance(origin, type) and issubclass(origin, Mapping) and args[0] is str:
        return MappingOf(value_type(args[1]), option)
    raise TypeError(f"an option cannot be of type {hint}")


def _simple(kind: Any, option: Option) -> ValueType:
    if kind is bool:
        return Flag()
    if kind in (int, float):
        return Number(option, whole=kind is int)
    if kind is str:
        return Text(option)
    if kind is Path:
        return FilePath(option)
    if kind in (Size, Duration):
        return Measure(kind, option)
    if kind is SecretName:
        return SecretReference()
    if kind is Any:
        return AnyValue()
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Choice(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return Nested(kind, option)
    raise TypeError(f"an option cannot be of type {getattr(kind, '__name__', kind)}")
