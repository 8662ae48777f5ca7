"""Publish a copy of a file: a link that readers open is switched atomically to a new file.

Published files are never written again, so a slow copy of one is always whole. The newest three are kept.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEPT = 3


def publish(source: Path, published: Path) -> None:
    """Copy `source`, which no process may write meanwhile, and make `published` a link to the copy."""
    files = _published_files(published)
    number = 1 + max(files, default=0)
    copy = published.with_name(f"{published.stem}-{number:08d}{published.suffix}")
    unfinished, link = published.with_suffix(".new"), published.with_suffix(".link")
    shutil.copyfile(source, unfinished)
    unfinished.chmod(0o444 | source.stat().st_mode & 0o777 & ~0o222)
    sync(unfinished)
    os.replace(unfinished, copy)
    link.unlink(missing_ok=True)
    link.symlink_to(copy.name)
    os.replace(link, published)
    sync(published.parent)
    for older in sorted(files)[: max(len(files) - KEPT + 1, 0)]:
        files[older].unlink()


def _published_files(published: Path) -> dict[int, Path]:
    found = {}
    for path in published.parent.glob(f"{published.stem}-*{published.suffix}"):
        number = path.stem.removeprefix(f"{published.stem}-")
        if number.isdecimal():
            found[int(number)] = path
    return found


def sync(path: Path) -> None:
    """Write a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
