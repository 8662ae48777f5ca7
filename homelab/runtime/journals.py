"""The journals of several containers, read by OpenSSH's client and merged by time."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Self

from homelab.errors import HomelabError
from homelab.host import UNREADABLE

LEVELS = ("error", "warning", "info", "debug")
FIELDS = ("PRIORITY", "MESSAGE", "_SYSTEMD_UNIT", "UNIT", "SYSLOG_IDENTIFIER")
_QUIET, _LONGEST = 0.3, 1.0  # seconds without a line, and seconds in all, after which waiting lines are sorted
_END_DEADLINE = 2.0  # seconds in which OpenSSH's client ends
# journald stores what a service prints as `info`; the level is in the first part of the text.
_IN_TEXT = re.compile(
    r"\[(?P<bracket>critical|error|warning|debug)\s*\]|\b(?P<word>PANIC|FATAL|CRITICAL|ERROR|WARNING|DEBUG)\b", re.I
)
_SEVERE = ("panic", "fatal", "critical")


@dataclass(frozen=True, slots=True, order=True)
class LogLine:
    """A line of a container's journal; `level` is error, warning, info, or debug."""

    time: datetime
    container: str
    unit: str
    level: str = field(compare=False)
    text: str = field(compare=False)


def parse_line(container: str, text: str) -> LogLine | None:
    """Return a line of `journalctl --output=json`; None for anything else."""
    with suppress(*UNREADABLE):
        entry: dict[str, Any] = json.loads(text)
        found = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
        found.astimezone()  # an OverflowError at the limits of the calendar
        message = entry.get("MESSAGE") or ""  # null if it is too long, a list of bytes if it is not text
        message = bytes(message).decode(errors="replace") if isinstance(message, list) else str(message)
        unit = str(entry.get("UNIT") or entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "")
        unit = " ".join(unit.split())  # each program may set it
        return LogLine(found, container, unit.removesuffix(".service"), _level(entry.get("PRIORITY"), message), message)
    return None


def _level(priority: object, text: str) -> str:
    number = int(priority) if isinstance(priority, str) and priority.isdigit() else 6
    if number != 6:
        return "error" if number <= 3 else "warning" if number == 4 else "debug" if number == 7 else "info"
    found = _IN_TEXT.search(text, 0, 120)
    # In lower case, only a word in brackets is a level.
    word = found["bracket"] or (found["word"] if found["word"].isupper() else "") if found else ""
    word = word.lower()
    return "error" if word in _SEVERE else word or "info"


class Journals:
    """Running programs that print logs of containers: a context manager; iterating yields the lines by time.

    `statuses` gets the worst exit status of the ended programs by container.
    """

    def __init__(self, commands: Sequence[tuple[str, Sequence[str]]], statuses: dict[str, int]) -> None:
        self._commands = commands
        self._lines: SimpleQueue[LogLine | None] = SimpleQueue()
        self._processes: list[subprocess.Popen[str]] = []
        self._statuses = statuses

    def __enter__(self) -> Self:
        try:
            for name, words in self._commands:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
                )
                self._processes.append(process)
                Thread(target=self._read, args=(name, process), daemon=True).start()
        except FileNotFoundError as error:
            raise HomelabError(
                "Cannot run ssh: it is not installed",
                "This command uses OpenSSH's client.",
                "Install it: apt install openssh-client",
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_DEADLINE)

    def __iter__(self) -> Iterator[LogLine]:
        """Yield the lines until all programs have ended; lines that arrive together are sorted by time."""
        waiting: list[LogLine] = []
        since, running = time.monotonic(), len(self._processes)
        while running:
            try:
                line = self._lines.get(timeout=_QUIET)
            except Empty:
                line = None
            else:
                if line is None:
                    running -= 1
                    continue
                since = since if waiting else time.monotonic()
                waiting.append(line)
            if line is None or time.monotonic() - since >= _LONGEST:
                yield from sorted(waiting)
                waiting.clear()
        yield from sorted(waiting)

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        for text in process.stdout or ():
            if line := parse_line(name, text):
                self._lines.put(line)
        self._statuses[name] = max(process.wait(), self._statuses.get(name, 0))
        self._lines.put(None)
