"""Types of inventory values: each reads a value, records a problem if it is invalid, and has a JSON Schema."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, ClassVar

from homelab.inventory.section import Section
from homelab.inventory.yaml_source import KeyPath
from homelab.model.options import Duration, Option, Quantity, SecretName, Size

INVALID: Any = object()  # the result of reading an invalid value
NO_HOME = "no user of this machine has this home folder"
_SHOWN = 60  # characters of a value in an error


def shown(value: object) -> str:
    """Render a value for an error, shortened."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if "PRIVATE KEY" in text:
        return "a private key"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "…'"


def nullable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema that allows null as well: null counts as not given."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [dict(schema), {"type": "null"}]} if schema else {}


def anchored(pattern: str) -> str:
    """Return a pattern that has to match the whole text, for JSON Schema."""
    return f"^(?:{pattern})$"


class ValueType(ABC):
    """A type of values; `expected` describes the valid ones: `must be EXPECTED`."""

    allows_empty = False  # a mapping without required keys
    hidden = False  # a value may be a secret, or contain one: no error shows it
    extra_schema: Mapping[str, Any] = MappingProxyType({})  # additions to the JSON Schema of this type

    def __init__(self, expected: str, schema: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.expected = expected
        self._schema = schema

    @abstractmethod
    def accepts(self, value: object) -> bool:
        """Check the kind of the value alone, to choose one of several types."""

    @abstractmethod
    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        """Convert the value `at` this path below the section. Record a problem and return INVALID if it is invalid."""

    def default(self, value: Any, section: Section, at: KeyPath) -> Any:
        """Convert the default of an option."""
        return value

    def json_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the values."""
        return {**self.schema(), **self.extra_schema}

    def schema(self) -> Mapping[str, Any]:
        """Return the JSON Schema without additions."""
        return self._schema

    def refuse(self, value: object, section: Section, at: KeyPath, hint: str = "") -> Any:
        """Record that the value is not of this type; return INVALID."""
        text = "this value" if self.hidden and not isinstance(value, dict | list | None) else shown(value)
        section.problem(f"must be {self.expected}, not {text}{hint}", *at)
        return INVALID


class Number(ValueType):
    """A number; with `whole`, without a fraction."""

    def __init__(self, option: Option, *, whole: bool) -> None:
        self._low, self._high, self._whole = option.low, option.high, whole
        noun = "a whole number" if whole else "a number"
        noun += f" of {option.unit}" if option.unit else ""
        schema: dict[str, Any] = {"type": "integer" if whole else "number"}
        if option.low is not None:
            schema["minimum"] = option.low
        if option.high is not None:
            schema["maximum"] = option.high
        super().__init__(option.expected or noun + _limits(option), schema)

    def accepts(self, value: object) -> bool:
        return isinstance(value, int if self._whole else int | float) and not isinstance(value, bool)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not self.accepts(value):
            return self.refuse(value, section, at)
        if (self._low is not None and value < self._low) or (self._high is not None and value > self._high):
            return self.refuse(value, section, at)
        return value if self._whole else float(value)


def _limits(option: Option) -> str:
    match option.low, option.high:
        case None, None:
            return ""
        case low, None:
            return f", at least {low}"
        case None, high:
            return f", at most {high}"
        case low, high:
            return f" from {low} to {high}"


class Flag(ValueType):
    """True or false."""

    def __init__(self) -> None:
        super().__init__("true or false", {"type": "boolean"})

    def accepts(self, value: object) -> bool:
        return isinstance(value, bool)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        return value if isinstance(value, bool) else self.refuse(value, section, at)


class Choice(ValueType):
    """One of a few values, compared with their type: a Literal's, or those of an Enum's members."""

    def __init__(self, members: Iterable[Any]) -> None:
        self._members = [(m.value if isinstance(m, Enum) else m, m) for m in members]
        values = [value for value, _ in self._members]
        self._texts = [value for value in values if isinstance(value, str)]
        super().__init__("one of " + ", ".join(map(shown, values)), {"enum": values})

    def accepts(self, value: object) -> bool:
        return any(value == known and type(value) is type(known) for known, _ in self._members)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        for known, member in self._members:
            if value == known and type(value) is type(known):
                return member
        hint = "; put it in quotes" if not isinstance(value, str) and str(value) in self._texts else ""
        return self.refuse(value, section, at, hint)


class Text(ValueType):
    """Text that matches a pattern, without control characters and unpaired surrogates, which no file can hold."""

    PATTERN = r"[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?"
    _UNUSABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

    def __init__(self, option: Option) -> None:
        pattern = option.pattern or self.PATTERN
        self._pattern, self.hidden = pattern, option.hidden
        super().__init__(option.expected or "text", {"type": "string", "pattern": anchored(pattern)})

    def accepts(self, value: object) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, str):
            return self.refuse(value, section, at, "; put it in quotes if it is meant as text")
        if not re.fullmatch(self._pattern, value):
            return self.refuse(value, section, at)
        if self._UNUSABLE.search(value):
            return self.refuse(value, section, at, "; it has a control character")
        return value


class FilePath(Text):
    """A path, relative to the file of the inventory that has the value."""

    def __init__(self, option: Option) -> None:
        super().__init__(Option(pattern=option.pattern, expected=option.expected or "a path"))

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        text = super().read(value, section, at)
        if text is INVALID:
            return INVALID
        try:
            return section.resolve(text, *at)
        except RuntimeError:
            section.problem(f"cannot use {text}: {NO_HOME}", *at)
            return INVALID

    def default(self, value: Any, section: Section, at: KeyPath) -> Any:
        return value if value is None else section.resolve(value, *at)


class Measure(ValueType):
    """A Size or a Duration."""

    NOUNS: ClassVar[Mapping[type[Quantity], str]] = {
        Size: "a size such as 512MiB or 2GB",
        Duration: "a duration such as 90s, 15m, 2h or 7d",
    }

    def __init__(self, kind: type[Quantity], option: Option) -> None:
        self._kind = kind
        self._low, self._high = (
            limit.magnitude if isinstance(limit, Quantity) else limit for limit in (option.low, option.high)
        )
        expected = option.expected or self.NOUNS[kind] + _limits(option)
        super().__init__(expected, {"type": "string", "pattern": anchored(kind.PATTERN)})

    def accepts(self, value: object) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        try:
            quantity = self._kind(value) if isinstance(value, str) else None
        except ValueError:
            quantity = None
        if quantity is None:
            too_large = isinstance(value, str) and re.fullmatch(self._kind.PATTERN, value)
            return self.refuse(value, section, at, f"; the largest is {self._kind.LARGEST}" if too_large else "")
        number = quantity.magnitude
        if (self._low is not None and number < self._low) or (self._high is not None and number > self._high):
            return self.refuse(value, section, at)
        return quantity


class SecretReference(ValueType):
    """`{secret: NAME}`. A problem never shows the value: it may be a secret."""

    hidden = True

    def __init__(self) -> None:
        name = {"type": "string", "pattern": anchored(SecretName.PATTERN), "description": "Name of the secret."}
        schema = {"type": "object", "properties": {"secret": name}, "required": ["secret"]}
        expected = "{secret: NAME}, with the name of a secret in the lab's secret store"
        super().__init__(expected, {**schema, "additionalProperties": False})

    def accepts(self, value: object) -> bool:
        return isinstance(value, dict)

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        name = value["secret"] if isinstance(value, dict) and set(value) == {"secret"} else None
        if isinstance(name, str) and re.fullmatch(SecretName.PATTERN, name):
            return SecretName(name, str(section.document.place((*section.keys, *at))))
        kind = "a mapping" if isinstance(value, dict) else "the secret itself" if isinstance(value, str) else "this"
        section.problem(f"must be {self.expected}, not {kind}", *at)
        return INVALID


class AnyValue(ValueType):
    """Any value but null; `{secret: NAME}`, at any depth, is the name of a secret. Never one of several types."""

    _UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")  # no database can store them

    def __init__(self) -> None:
        self._secret = SecretReference()
        reference = {"type": "object", "required": ["secret"], "maxProperties": 1}
        schema = {"not": {"type": "null"}, "if": reference, "then": self._secret.json_schema()}
        super().__init__("a value, not null", schema)

    def accepts(self, value: object) -> bool:
        return False

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        return self.refuse(value, section, at) if value is None else self._read(value, section, at)

    def _read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if isinstance(value, str) and self._UNUSABLE.search(value):
            return self.refuse(value, section, at, "; it has a control character")
        if isinstance(value, dict) and set(value) == {"secret"}:
            return self._secret.read(value, section, at)
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            found = [(key, self._read(each, section, (*at, key))) for key, each in items]
            if any(each is INVALID for _, each in found):
                return INVALID
            return dict(found) if isinstance(value, dict) else [each for _, each in found]
        return value
