"""A spool on disk for rows on their way to PostgreSQL: they survive a killed process and an unreachable server.

Each file holds lines of COPY's text format. An observation: time, city, units, data. A quarantined response: an empty
field, city, units, time of receipt, size, reason, first bytes in hex. The process that writes a file holds its lock; a
file without a lock was left by a run that was interrupted or could not reach PostgreSQL. A damaged line is quarantined.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from validation import MAX_NAME, printable

_MAX_QUARANTINED = 8192  # bytes that are kept of a quarantined response
_MAX_UNITS = 40  # characters
_received_lock, _last_received = threading.Lock(), datetime.fromtimestamp(0, UTC)
_ESCAPES = {rb"\\": b"\\", rb"\n": b"\n", rb"\r": b"\r", rb"\t": b"\t"}


class SpoolFull(Exception):
    """The spool or its disk has no room for more rows."""


def observation_line(city: str, units: str, dt: int, text: str) -> bytes:
    """Format an observation."""
    return f"{dt}\t{escape(city)}\t{units}\t{escape(text)}\n".encode()


def quarantine_line(city: str, units: str, reason: str, body: bytes) -> bytes:
    """Format a response that cannot be stored; its time of receipt is now. Texts may hold any character."""
    fields = (
        printable(city)[:MAX_NAME] or "unknown",
        printable(units)[:_MAX_UNITS],
        _received_at().isoformat(),
        str(len(body)),
        printable(reason),
        body[:_MAX_QUARANTINED].hex(),
    )
    return "\t".join(["", *map(escape, fields)]).encode() + b"\n"


def _received_at() -> datetime:
    """Return the time, later than the last one: PostgreSQL keeps one row per city and time of receipt."""
    global _last_received
    with _received_lock:
        _last_received = max(datetime.now(UTC), _last_received + timedelta(microseconds=1))
        return _last_received


def damaged_line(line: bytes, reason: str) -> bytes:
    """Format a line of the spool that is neither an observation nor a quarantined response, for the quarantine."""
    return quarantine_line("unknown", "unknown", f"a damaged line of the spool: {reason}", line)


def is_damaged(line: bytes) -> bool:
    """Return True if a line has the form of neither an observation nor a quarantined response."""
    try:
        line.decode()
    except UnicodeDecodeError:
        return True
    fields = line.rstrip(b"\n").split(b"\t")
    return len(fields) != (4 if fields[0] else 7) or not (fields[0] or b"0").isdigit()


def is_observation(line: bytes) -> bool:
    """Return True for an observation, False for a quarantined response."""
    return not line.startswith(b"\t")


def city_of(line: bytes) -> str:
    """Return the city of an observation's line."""
    return unescape(line.split(b"\t")[1]).decode(errors="replace")


def escape(text: str) -> str:
    """Escape a text for COPY."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r").replace("\t", r"\t")


def unescape(value: bytes) -> bytes:
    """Undo `escape` on UTF-8."""
    return re.sub(rb"\\[\\nrt]", lambda found: _ESCAPES[found[0]], value)


@dataclass(slots=True)
class Segment:
    """One open and locked file of the spool; `own` if this run wrote it.

    `unwritten` are the lines for which the disk has no room: only this process has them.
    """

    path: Path
    descriptor: int
    own: bool
    size: int = 0  # bytes
    rows: int = 0
    observations: int = 0  # rows that are not quarantined
    lines: list[bytes] = field(default_factory=list)
    unwritten: list[bytes] = field(default_factory=list)

    def read(self) -> list[bytes]:
        """Return the complete lines. A partial last line belongs to a city that was never counted as fetched.

        Damaged lines of another run are named on standard error and become lines for the quarantine. Raises OSError.
        """
        if not self.lines:
            with self.path.open("rb") as file:
                self.lines = [line for line in file if line.endswith(b"\n")]
            for number, line in enumerate(self.lines):
                if is_damaged(line):
                    print(f"error: {self.path}: line {number + 1} is damaged: see raw.quarantine", file=sys.stderr)
                    self.lines[number] = damaged_line(line, f"{self.path.name}, line {number + 1}")
        return self.lines

    def release(self) -> None:
        """Unlock the file, so that another run can store it."""
        os.close(self.descriptor)
        self.lines = []

    def sync(self) -> None:
        """Flush the file to the disk and free the memory, unless lines of it are in memory only."""
        os.fsync(self.descriptor)
        if not self.unwritten:
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
        """Lock and yield the files that no other process holds, oldest first; name those that cannot be read."""
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = sorted(self.folder.glob("*.rows"))
        self.size = sum(map(_size, paths))
        for path in paths:
            try:
                segment = _open_abandoned(path)
            except OSError as error:
                print(f"error: cannot read {path}: {error.strerror}", file=sys.stderr)
            else:
                if segment is not None:
                    yield segment

    def add(self, line: bytes, *, quarantined: bool = False, in_memory: bool = False) -> int:
        """Write a row; return the number of rows in the current segment. Raises SpoolFull.

        With `in_memory`, a row for which the disk has no room is kept in memory.
        """
        if self.size + len(line) > self.limit:
            raise SpoolFull(
                f"cannot write to {self.folder}: {self.size >> 20} MiB wait for PostgreSQL, which is the limit"
            )
        try:
            segment = self._current or self._create()
        except OSError as error:
            raise SpoolFull(f"cannot write to {self.folder}: {error.strerror}") from None
        try:
            _append(segment, line)
        except SpoolFull:
            if not in_memory:
                raise
            segment.unwritten.append(line)
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


def _size(path: Path) -> int:
    """Return a file's size in bytes; 0 if it cannot be read, or another run has just deleted it."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _open_abandoned(path: Path) -> Segment | None:
    """Lock and read a file; return None if another process holds it or has deleted it. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    segment = Segment(path, descriptor, own=False, size=os.fstat(descriptor).st_size)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:
            segment.read()
            return segment
    except BlockingIOError:
        pass
    except OSError:
        segment.release()
        raise
    segment.release()
    return None
