"""A mapping of the inventory, read key by key: every reader says what is allowed and records what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homelab.inventory.errors import Problems, did_you_mean
from homelab.inventory.yaml_source import Document, Keys

REQUIRED: Any = object()  # the default of what has to be given


def shown(value: object) -> str:
    """A value as its writer knows it, shortened."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"


@dataclass(slots=True)
class Section:
    """One mapping. A value that is missing or wrong is recorded, and its reader gives None or the default."""

    document: Document
    faults: Problems
    keys: Keys
    data: dict[str, Any]
    asked: list[str] = field(default_factory=list)
    absent: bool = False  # the mapping itself is the fault, so its keys are not

    def fault(self, text: str, *below: str | int) -> None:
        """Record a fault of this mapping, or of the value below it."""
        if self.absent:
            return
        keys = (*self.keys, *below)
        self.faults.add(self.document.place(keys), keys, text)

    def file(self, key: str) -> Path:
        """The file in which a value stands."""
        return self.document.place((*self.keys, key)).file

    def value(self, key: str, default: Any = REQUIRED, says: str = "") -> Any:
        """Whatever stands there; null counts as not given."""
        self.asked.append(key)
        value = self.data.get(key)
        if value is not None:
            return value
        if default is REQUIRED:
            self.fault(f"is missing: {says}" if says else "is missing", key)
            return None
        return default

    def text(self, key: str, default: Any = REQUIRED, *, pattern: str = r"\S(.*\S)?", says: str = "some text") -> Any:
        """A text that matches a pattern, which `says` puts into words."""
        value = self.value(key, default, says)
        if value is default or value is None:
            return value
        if not isinstance(value, str):
            self.fault(f"must be {says}, not {shown(value)}; put it in quotes if it is meant as text", key)
        elif not re.fullmatch(pattern, value):
            self.fault(f"must be {says}, not {shown(value)}", key)
        else:
            return value
        return None

    def whole(self, key: str, default: Any = REQUIRED, *, low: int, high: int, unit: str = "") -> Any:
        """A whole number within bounds, both included."""
        says = f"a whole number{' of ' + unit if unit else ''} from {low} to {high}"
        value = self.value(key, default, says)
        if value is default or value is None:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fault(f"must be {says}, not {shown(value)}", key)
            return None
        return value

    def fraction(self, key: str, *, low: int, high: int) -> float | None:
        """A number within bounds, or None."""
        value = self.value(key, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fault(f"must be a number from {low} to {high}, not {shown(value)}", key)
            return None
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.value(key, default)
        if not isinstance(value, bool):
            self.fault(f"must be true or false, not {shown(value)}", key)
            return default
        return value

    def choice(self, key: str, options: Sequence[Any], default: Any = REQUIRED) -> Any:
        """One of a few values, of the same type."""
        says = "one of " + ", ".join(shown(option) for option in options)
        value = self.value(key, default, says)
        if value is default or value is None:
            return value
        if not any(value == option and type(value) is type(option) for option in options):
            quotes = "; put it in quotes" if str(value) in options else ""
            self.fault(f"must be {says}, not {shown(value)}{quotes}", key)
            return None
        return value

    def items(self, key: str, default: Any = REQUIRED, says: str = "a list") -> list[Any] | None:
        """A list of whatever."""
        value = self.value(key, default, says)
        if value is not None and not isinstance(value, list):
            self.fault(f"must be {says}, not {shown(value)}", key)
            return None
        return value

    def table(self, key: str, *, required: bool = True, says: str = "a mapping of options") -> Section:
        """The mapping below; an empty one where it is missing or wrong."""
        value = self.value(key, REQUIRED if required else {}, says)
        if value is None:
            return Section(self.document, self.faults, (*self.keys, key), {}, absent=True)
        return self.below(value, key, says=says)

    def below(self, value: Any, *path: str | int, says: str = "a mapping of options") -> Section:
        """A value that stands below as a mapping."""
        if not isinstance(value, dict):
            self.fault(f"must be {says}, not {shown(value)}", *path)
            return Section(self.document, self.faults, (*self.keys, *path), {}, absent=True)
        return Section(self.document, self.faults, (*self.keys, *path), value, absent=self.absent)

    def tables(self, *, says: str) -> Iterator[tuple[str, Section]]:
        """Every mapping below, by its key, whatever the keys are; null counts as an empty one."""
        for key, value in self.data.items():
            self.asked.append(key)
            yield key, self.below({} if value is None else value, key, says=says)

    def close(self) -> None:
        """Record every key that nobody asked for."""
        for key in self.data:
            if key not in self.asked:
                self.fault(f"unknown key; {did_you_mean(key, dict.fromkeys(self.asked))}", key)
