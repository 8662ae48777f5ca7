"""The lines of /etc/subuid and /etc/subgid that allow root to map the containers' ids."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

FIRST, COUNT = 100000, 65536
LINE = f"root:{FIRST}:{COUNT}"
FILES = (Path("/etc/subuid"), Path("/etc/subgid"))


def covers(text: str) -> bool:
    """Check that a file's text allows root to map the whole range that the containers use."""
    for line in text.splitlines():
        user, _, numbers = line.partition(":")
        start, _, count = numbers.partition(":")
        if (
            user in ("root", "0")
            and start.isdigit()
            and count.isdigit()
            and int(start) <= FIRST
            and int(start) + int(count) >= FIRST + COUNT
        ):
            return True
    return False


def grant(files: Sequence[Path] = FILES) -> list[str]:
    """Allow root to map the containers' ids, and return the files to which a line was added."""
    added = []
    for file in files:
        text = file.read_text() if file.exists() else ""
        if not covers(text):
            _replace(file, text + ("\n" if text and not text.endswith("\n") else "") + LINE + "\n")
            added.append(str(file))
    return added


def revoke(files: Sequence[str]) -> None:
    """Remove the line that `grant` added to these files."""
    for file in map(Path, files):
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        kept = [line for line in lines if line.strip() != LINE]
        if kept != lines:
            _replace(file, "".join(kept))


def _replace(file: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(handle, "w") as new:
        new.write(text)
    Path(name).chmod(0o644)
    Path(name).replace(file)
