"""Saves in a folder, found by polling: no library, and the same on every file system."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_POLL = 0.3  # seconds between two looks
_QUIET = 0.6  # seconds without a further save: an editor writes a file in several steps, git many files
_IGNORED = {"__pycache__", "target", "logs", "dbt_packages", ".git"}


def saves(folder: Path) -> Iterator[list[str]]:
    """Return an endless iterator of the changed, added and removed paths below the folder, after each save from now on.

    Saves during the work on the previous ones are found afterwards.
    """
    return _saves(folder, _snapshot(folder))


def _saves(folder: Path, known: Mapping[str, tuple[int, int]]) -> Iterator[list[str]]:
    while True:
        time.sleep(_POLL)
        found = _snapshot(folder)
        if found == known:
            continue
        while (later := _after(folder, _QUIET)) != found:
            found = later
        changed = {path for path in {*known, *found} if known.get(path) != found.get(path)}
        known = found
        if changed:
            yield sorted(changed)


def _after(folder: Path, seconds: float) -> Mapping[str, tuple[int, int]]:
    time.sleep(seconds)
    return _snapshot(folder)


def _snapshot(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Return the time and the size of each file by its path; without the files that dbt, Python and editors leave."""
    found = {}
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if _IGNORED.isdisjoint(parts) and not parts[-1].startswith(".") and not parts[-1].endswith(("~", ".pyc")):
            try:
                state = path.stat()
            except OSError:  # removed meanwhile
                continue
            if path.is_file():
                found["/".join(parts)] = state.st_mtime_ns, state.st_size
    return found
