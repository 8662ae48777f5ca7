"""Types of service options and inventory keys, for plain annotations on a dataclass.

A service declares an option as a field; `Option` adds its description and limits:

    port: Annotated[int, Option("Port of the web UI.", low=1024, high=65535)] = 3000
    log_level: Annotated[Literal["info", "debug"], Option("Amount of detail in the log.")] = "info"
    cache: Annotated[Size, Option("Memory of the cache.", low=Size("16MiB"))] = Size("256MiB")
    keep: Annotated[Duration, Option("Age at which metrics are deleted.")] = Duration("15d")
    token: Annotated[SecretName, Option("Token of the chat.")]
    plugins: Annotated[tuple[str, ...], Option("Plugins to install.")] = ()
    labels: Annotated[Mapping[str, str], Option("Labels of every metric.")] = field(default_factory=dict)

A field without a default is required. Other types: `float`, `bool`, `str`, `Path` (relative to the inventory's file),
a StrEnum, a dataclass (a mapping with its fields as keys), `T | None`, and `Any` (any value; `{secret: NAME}` in it
becomes a SecretName).
"""

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, Self


class Quantity(str):
    """A number with a unit, as written in the inventory; its magnitude is a number of base units."""

    __slots__ = ()
    UNITS: ClassVar[Mapping[str, float]]
    PATTERN: ClassVar[str]
    LARGEST: ClassVar[str]  # programs cannot count further

    def __new__(cls, text: str) -> Self:
        """Check the text. Raises ValueError."""
        if not re.fullmatch(cls.PATTERN, text):
            raise ValueError(f"not a {cls.__name__.lower()}: {text!r}")
        quantity = super().__new__(cls, text)
        if text != cls.LARGEST and quantity.magnitude > cls(cls.LARGEST).magnitude:
            raise ValueError(f"more than {cls.LARGEST}: {text!r}")
        return quantity

    @property
    def magnitude(self) -> float:
        """The number of base units: bytes or seconds."""
        number, unit = re.fullmatch(r"([0-9.]+)\s*(\w+)", self).groups()  # type: ignore[union-attr] # checked in __new__
        return float(number) * self.UNITS[unit]


class Size(Quantity):
    """An amount of memory or storage: `512MiB`, `2GB`, `1.5 TB`."""

    __slots__ = ()
    UNITS: ClassVar[Mapping[str, float]] = {
        **{f"{prefix}B": 1000.0**power for power, prefix in enumerate("KMGT", 1)},
        **{f"{prefix}iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
    }
    PATTERN = r"[1-9][0-9]*(\.[0-9]+)? ?[KMGT]i?B"
    LARGEST = "1000000TB"

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return int(self.magnitude)


class Duration(Quantity):
    """A length of time: `90s`, `15m`, `2h`, `7d`."""

    __slots__ = ()
    UNITS: ClassVar[Mapping[str, float]] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    PATTERN = r"(0|[1-9][0-9]*)(\.[0-9]+)?[smhd]"
    LARGEST = "36500d"

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.magnitude


class SecretName(str):
    """The name of a secret in the lab's secret store, written as `{secret: NAME}`; never the secret itself.

    `place` is the file and the line that refer to it, for errors.
    """

    __slots__ = ("place",)
    PATTERN: ClassVar[str] = r"[a-z0-9][a-z0-9._-]*"
    place: str

    def __new__(cls, text: str, place: str = "") -> Self:
        """Check the name. Raises ValueError."""
        if not re.fullmatch(cls.PATTERN, text):
            raise ValueError(f"not a name of a secret: {text!r}")
        self = super().__new__(cls, text)
        self.place = place
        return self


@dataclass(frozen=True, slots=True)
class KeyNames:
    """The names that a mapping takes as keys: a pattern, and the error for a key that does not match it."""

    pattern: str
    error: str


@dataclass(frozen=True, slots=True)
class Option:
    """The description and the limits of an option; the limits are allowed values themselves.

    `expected` describes the allowed values in errors: `must be EXPECTED, not …`. `empty` is the error for a list or a
    mapping without items; by default, it may have none. `shorthand` names the key of a nested dataclass that may be
    given alone, without a mapping. `schema` is added to the JSON Schema. A `hidden` text may contain a secret: no error
    shows it. A Size is `part_of` the memory or the disk of the container, which limits it.
    """

    description: str = ""
    _: KW_ONLY
    low: float | Quantity | None = None
    high: float | Quantity | None = None
    unit: str = ""
    pattern: str = ""
    expected: str = ""
    empty: str = ""
    keys: KeyNames | None = None
    shorthand: str = ""
    hidden: bool = False
    part_of: Literal["memory", "disk", ""] = ""
    examples: tuple[Any, ...] = field(default=(), hash=False)
    schema: Mapping[str, Any] = field(default_factory=dict, hash=False)
