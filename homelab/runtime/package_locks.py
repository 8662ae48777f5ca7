"""Lock files of Python packages next to the inventory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PackageLock:
    """The lock file, and the number of packages in it."""

    path: Path
    packages: int

    def __str__(self) -> str:
        return f"{self.path}: {self.packages} packages are locked; `homelab deploy` installs them"


def write_lock(path: Path, text: str) -> PackageLock:
    """Replace a lock atomically, so that a deploy never reads a part of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
    return PackageLock(path, text.count("=="))
