"""Rows on their way to Postgres, on disk: a process may be killed and Postgres be away, and they go in later.

Each file holds lines of COPY's text format. Good ones: time of the observation, city, units, data. Bad ones: nothing,
then city, units, when it was received, its size, the reason, how it begins. A file is locked by the process that
writes it; one that is not locked was left behind by a run that was cut off or could not reach Postgres.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_KEPT = 8192  # bytes of an answer that cannot go in
_ESCAPED = {rb"\\": b"\\", rb"\n": b"\n", rb"\r": b"\r", rb"\t": b"\t"}


class SpoolFull(Exception):
    """There is no room for more rows."""


def good(city: str, units: str, dt: int, text: str) -> bytes:
    """The line of an observation."""
    return f"{dt}\t{escaped(city)}\t{units}\t{escaped(text)}\n".encode()


def bad(city: str, units: str, reason: str, body: bytes) -> bytes:
    """The line of an answer that cannot go in; its time of receipt is now."""
    return (
        f"\t{escaped(city)}\t{units}\t{datetime.now(UTC).isoformat()}\t{len(body)}\t{escaped(reason)}\t"
        f"{body[:_KEPT].hex()}\n"
    ).encode()


def escaped(text: str) -> str:
    """A text as COPY reads it."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


def plain(field_of_line: bytes) -> bytes:
    """A text, in UTF-8, as it was before `escaped`."""
    return re.sub(rb"\\[\\nrt]", lambda found: _ESCAPED[found[0]], field_of_line)


@dataclass(slots=True)
class Segment:
    """One file, and its lock as long as it is open; `mine`: of this run."""

    path: Path
    descriptor: int
    mine: bool
    size: int = 0  # bytes
    rows: int = 0
    good: int = 0
    lines: list[bytes] = field(default_factory=list)

    def read(self) -> list[bytes]:
        """Its whole lines: the last one may have been cut off, and then its city was never counted as answered."""
        if not self.lines:
            with self.path.open("rb") as file:
                self.lines = [line for line in file if line.endswith(b"\n")]
        return self.lines

    def release(self) -> None:
        """For another run to bring in."""
        os.close(self.descriptor)
        self.lines = []

    def keep(self) -> None:
        """Safe on the disk, and no longer in memory."""
        os.fsync(self.descriptor)
        self.lines = []


@dataclass(slots=True)
class Spool:
    """The folder with the files, which together have at most `limit` bytes."""

    folder: Path
    limit: int
    size: int = 0
    _made: int = 0
    _current: Segment | None = None

    def left_behind(self) -> Iterator[Segment]:
        """Files that nobody holds, oldest first; each is held now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.size = sum(path.stat().st_size for path in self.folder.glob("*.rows"))
        for path in sorted(self.folder.glob("*.rows")):
            descriptor = _hold(path)
            if descriptor is not None:
                yield Segment(path, descriptor, mine=False, size=os.fstat(descriptor).st_size)

    def add(self, line: bytes, *, good: bool) -> int:
        """Write a row down; returns how many wait in the segment that it is in. Raises SpoolFull."""
        if self.size + len(line) > self.limit:
            raise SpoolFull(f"{self.folder} holds {self.size >> 20} MiB that wait for Postgres, and may hold no more")
        segment = self._current or self._new()
        _append(segment, line)
        segment.lines.append(line)
        segment.rows += 1
        segment.good += good
        segment.size += len(line)
        self.size += len(line)
        return segment.rows

    def take(self) -> Segment | None:
        """The segment as far as it is written; what comes next goes into another one."""
        segment, self._current = self._current, None
        return segment

    def done(self, segment: Segment) -> None:
        """Its rows are in Postgres."""
        segment.path.unlink(missing_ok=True)
        os.close(segment.descriptor)
        self.size -= segment.size

    def _new(self) -> Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made += 1
        path = self.folder / f"{time.time_ns():020}-{os.getpid()}-{self._made}.rows"
        # Under its own name only once it is locked: nobody may take it for one that was left behind.
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(new, path)
        self._current = Segment(path, descriptor, mine=True)
        return self._current


def _append(segment: Segment, line: bytes) -> None:
    try:
        written = os.write(segment.descriptor, line)
    except OSError as error:
        raise SpoolFull(f"{segment.path.parent} cannot be written to: {error.strerror}") from None
    if written < len(line):
        os.ftruncate(segment.descriptor, segment.size)  # half a line would spoil the next one
        raise SpoolFull(f"{segment.path.parent} cannot be written to: there is no room")


def _hold(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            return descriptor
    except BlockingIOError:
        pass
    os.close(descriptor)
    return None
