"""One mapping of the inventory with its position in the files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homelab.inventory.errors import Problems
from homelab.inventory.yaml_source import Document, KeyPath
from homelab.services.registry import Registry


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping, its keys from the root, and the problems and services of the whole inventory."""

    document: Document
    problems: Problems
    registry: Registry
    keys: KeyPath
    data: dict[str, Any]

    def problem(self, text: str, *path: str | int) -> None:
        """Record a problem of this mapping, or of the value at `path` below it."""
        keys = (*self.keys, *path)
        self.problems.add(self.document.place(keys), keys, text)

    def has(self, key: str) -> bool:
        """Check that a key is given; null counts as not given."""
        return self.data.get(key) is not None

    def resolve(self, path: str | Path, *keys: str | int) -> Path:
        """Return a path relative to the file that has the value at `keys` below this mapping.

        Raises RuntimeError for `~USER` without such a user.
        """
        return (self.document.place((*self.keys, *keys)).file.parent / Path(path).expanduser()).absolute()

    def below(self, *path: str | int) -> Section:
        """Return the mapping at `path`; an empty one if there is no mapping."""
        data: Any = self.data
        for key in path:
            data = data.get(key) if isinstance(data, dict) else data[key]
        return self.at(path, data if isinstance(data, dict) else {})

    def at(self, path: KeyPath, data: dict[str, Any]) -> Section:
        """Return the mapping `data` at `path` below this one."""
        return replace(self, keys=(*self.keys, *path), data=data)
