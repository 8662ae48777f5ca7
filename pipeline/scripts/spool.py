"""A spool on disk for rows on their way to PostgreSQL: they survive a killed process and an unreachable server.

Each file holds lines of COPY's text format. An observation: time, city, units, data. A quarantined response: an empty
field, city, units, time of receipt, size, reason, first bytes in hex. The process that writes a file holds its lock; a
file without a lock was left by a run that was interrupted or could not reach PostgreSQL.
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

_MAX_QUARANTINED = 8192  # bytes that are kept of a quarantined response
_ESCAPES = {rb"\\": b"\\", rb"\n": b"\n", rb"\r": b"\r", rb"\t": b"\t"}


class SpoolFull(Exception):
    """The spool or its disk has no room for more rows."""


def observation_line(city: str, units: str, dt: int, text: str) -> bytes:
    """Format an observation."""
    return f"{dt}\t{escape(city)}\t{units}\t{escape(text)}\n".encode()


def quarantine_line(city: str, units: str, reason: str, body: bytes) -> bytes:
    """Format a response that cannot be stored; its time of receipt is now."""
    return (
        f"\t{escape(city)}\t{units}\t{datetime.now(UTC).isoformat()}\t{len(body)}\t{escape(reason)}\t"
        f"{body[:_MAX_QUARANTINED].hex()}\n"
    ).encode()


def escape(text: str) -> str:
    """Escape a text for COPY."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


def unescape(value: bytes) -> bytes:
    """Undo `escape` on UTF-8."""
    return re.sub(rb"\\[\\nrt]", lambda found: _ESCAPES[found[0]], value)


@dataclass(slots=True)
class Segment:
    """One open and locked file of the spool; `own` if this run wrote it."""

    path: Path
    descriptor: int
    own: bool
    size: int = 0  # bytes
    rows: int = 0
    observations: int = 0  # rows that are not quarantined
    lines: list[bytes] = field(default_factory=list)

    def read(self) -> list[bytes]:
        """Return the complete lines. A partial last line belongs to a city that was never counted as fetched."""
        if not self.lines:
            with self.path.open("rb") as file:
                self.lines = [line for line in file if line.endswith(b"\n")]
        return self.lines

    def release(self) -> None:
        """Unlock the file, so that another run can store it."""
        os.close(self.descriptor)
        self.lines = []

    def sync(self) -> None:
        """Flush the file to the disk and free the memory."""
        os.fsync(self.descriptor)
        self.lines = []


@dataclass(slots=True)
class Spool:
    """A folder of segments with a size limit in bytes."""

    folder: Path
    limit: int
    size: int = 0
    _created: int = 0
    _current: Segment | None = None

    def abandoned(self) -> Iterator[Segment]:
        """Lock and yield the files that no other process holds, oldest first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.size = sum(path.stat().st_size for path in self.folder.glob("*.rows"))
        for path in sorted(self.folder.glob("*.rows")):
            descriptor = _lock(path)
            if descriptor is not None:
                yield Segment(path, descriptor, own=False, size=os.fstat(descriptor).st_size)

    def add(self, line: bytes, *, quarantined: bool = False) -> int:
        """Write a row; return the number of rows in the current segment. Raises SpoolFull."""
        if self.size + len(line) > self.limit:
            raise SpoolFull(
                f"cannot write to {self.folder}: {self.size >> 20} MiB wait for PostgreSQL, which is the limit"
            )
        segment = self._current or self._create()
        _append(segment, line)
        segment.lines.append(line)
        segment.rows += 1
        segment.observations += not quarantined
        segment.size += len(line)
        self.size += len(line)
        return segment.rows

    def detach(self) -> Segment | None:
        """Return the current segment, if any; later rows go to a new one."""
        segment, self._current = self._current, None
        return segment

    def remove(self, segment: Segment) -> None:
        """Delete a segment after its rows are stored in PostgreSQL."""
        segment.path.unlink(missing_ok=True)
        os.close(segment.descriptor)
        self.size -= segment.size

    def _create(self) -> Segment:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._created += 1
        path = self.folder / f"{time.time_ns():020}-{os.getpid()}-{self._created}.rows"
        # It gets its final name only after it is locked: no other run may take it for an abandoned one.
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(new, path)
        self._current = Segment(path, descriptor, own=True)
        return self._current


def _append(segment: Segment, line: bytes) -> None:
    try:
        written = os.write(segment.descriptor, line)
    except OSError as error:
        raise SpoolFull(f"cannot write to {segment.path.parent}: {error.strerror}") from None
    if written < len(line):
        os.ftruncate(segment.descriptor, segment.size)  # a partial line would corrupt the next one
        raise SpoolFull(f"cannot write to {segment.path.parent}: no space left")


def _lock(path: Path) -> int | None:
    """Open and lock a file; return None if another process holds it or has deleted it."""
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
