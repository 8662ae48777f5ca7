"""Put a whole copy of a file in the place of the published one, at a cost that does not grow with the file.

The copy that was published before the present one is kept as a spare. Nobody opens it any more, so it is brought up to
date by writing only the blocks that differ, and takes its turn. A reader that has had it open all the while is noticed
by the lock that DuckDB holds on what it reads: then a new copy is made, and he keeps his.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_BLOCK = 1 << 18  # bytes, as DuckDB's own blocks


def publish(source: Path, published: Path) -> None:
    """Replace `published` in one step by a copy of `source`, which nobody writes meanwhile."""
    new, spare = published.with_suffix(".new"), published.with_suffix(".spare")
    if spare.exists() and published.exists() and spare.samefile(published):
        spare.unlink()  # killed between the two last steps: this is the file that is being read
    if not (spare.exists() and _brought_up_to_date(spare, source)):
        spare.unlink(missing_ok=True)
        shutil.copyfile(source, new)
        _settle(new)
    else:
        os.replace(spare, new)
    if published.exists():
        os.link(published, spare)
    os.replace(new, published)
    _settle(published.parent)


def _brought_up_to_date(spare: Path, source: Path) -> bool:
    """Make `spare` equal to `source`; False if somebody reads it."""
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


def _settle(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
