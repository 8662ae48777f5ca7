"""Replace the published file by a copy of another one, at a cost that does not grow with the file.

The previously published copy is kept as a spare. It has no new readers, so it is updated by writing only the blocks
that differ, and published next. DuckDB's lock shows a reader that still has it open: then a new copy is made, and the
reader keeps the old one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_BLOCK = 1 << 18  # bytes, as DuckDB's own blocks


def publish(source: Path, published: Path) -> None:
    """Replace `published` atomically by a copy of `source`, which no process may write meanwhile."""
    new, spare = published.with_suffix(".new"), published.with_suffix(".spare")
    if spare.exists() and published.exists() and spare.samefile(published):
        spare.unlink()  # a run was killed between link and replace: this is the file in use
    if spare.exists() and _update(spare, source):
        os.replace(spare, new)
    else:
        spare.unlink(missing_ok=True)
        shutil.copyfile(source, new)
        _sync(new)
    if published.exists():
        os.link(published, spare)
    os.replace(new, published)
    _sync(published.parent)


def _update(spare: Path, source: Path) -> bool:
    """Make `spare` equal to `source`; return False if a reader has it open."""
    with spare.open("r+b", buffering=0) as old, source.open("rb", buffering=0) as new:
        try:
            fcntl.lockf(old, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        offset = 0
        while block := os.pread(new.fileno(), _BLOCK, offset):
            if os.pread(old.fileno(), _BLOCK, offset) != block:
                os.pwrite(old.fileno(), block, offset)
            offset += len(block)
        old.truncate(offset)
        os.fsync(old.fileno())
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
