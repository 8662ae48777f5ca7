"""The display of progress: the only importer of rich's live display.

Progress goes to standard error, results go to standard output, so `--json` can be piped.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from homelab.terminal import printable

StatusUpdate = Callable[[str], None]
_LINE_INTERVAL = 10.0  # seconds between two status lines of one step without a terminal


class Progress(Protocol):
    """A display to which long work reports; its methods may be called from several threads."""

    def step(self, host: str, title: str) -> AbstractContextManager[StatusUpdate]:
        """Return a context that shows a step while it runs, and its duration when it has ended.

        The context provides a function that shows the present status, such as `37 %`.
        """

    def note(self, host: str, text: str) -> None:
        """Print a permanent line."""

    def event(self, host: str, event: str, **facts: object) -> None:
        """Report details for scripts and for --verbose, such as a command and its output."""

    def close(self) -> None:
        """Stop the live display, so that another program can use the terminal."""


def duration(seconds: float) -> str:
    """Format a duration: `0.4 s`, `12 s`, `2 min 05 s`, `3 h 04 min`, `2 d 7 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minute:02d} min" if hours else f"{minutes} min {rest:02d} s"


@dataclass(slots=True)
class _RunningStep:
    """A running step; its times are monotonic seconds."""

    host: str
    title: str
    started: float
    last_line: float  # time at which its status was last printed as a line
    status: str = ""


class TerminalProgress:
    """Live lines on a terminal; plain lines without one, or with CI set."""

    def __init__(self, console: Console | None = None, interval: float = _LINE_INTERVAL, verbose: bool = False) -> None:
        self._interval, self._verbose = interval, verbose
        self._console = console or Console(stderr=True, highlight=False)
        self._live_wanted = self._console.is_terminal and not os.environ.get("CI")
        self._running: dict[int, _RunningStep] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._count = 0

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[StatusUpdate]:
        """See Progress.step."""
        started = time.monotonic()
        step = _RunningStep(host, title, started, started)
        token = self._enter(step)
        mark, style = "✗", "red"
        try:
            yield partial(self._update, step)
            mark, style = "✓", "green"
        finally:
            self._leave(token)
            self._line(mark, style, host, f"{title}  [{duration(time.monotonic() - started)}]")

    def note(self, host: str, text: str) -> None:
        """See Progress.note."""
        self._line("·", "cyan", host, text)

    def event(self, host: str, event: str, **facts: object) -> None:
        """See Progress.event: commands are shown with --verbose, other events are for scripts."""
        if self._verbose and event == "command":
            self._line("$", "dim", host, f"{facts['command']}\n{facts['output']}\n[status {facts['status']}]".strip())

    def close(self) -> None:
        """See Progress.close."""
        with self._lock:
            live, self._live, self._live_wanted = self._live, None, False
        if live is not None:
            live.stop()

    def _line(self, mark: str, style: str, host: str, text: str) -> None:
        line = Text.assemble((f"{mark} ", style), (f"{printable(host):<22} ", "bold"), printable(text))
        with self._lock:
            self._console.print(line, soft_wrap=True)

    def _update(self, step: _RunningStep, status: str) -> None:
        now, before, step.status = time.monotonic(), step.status, status
        if not self._live_wanted and status != before and now - step.last_line >= self._interval:
            step.last_line = now
            self._line("·", "cyan", step.host, f"{step.title}: {status}")

    def _enter(self, step: _RunningStep) -> int:
        with self._lock:
            self._count += 1
            self._running[self._count] = step
            if self._live_wanted and self._live is None:
                self._live = Live(
                    get_renderable=self._render, console=self._console, refresh_per_second=8, transient=True
                )
                self._live.start()
            return self._count

    def _leave(self, token: int) -> None:
        with self._lock:
            self._running.pop(token, None)
            live, self._live = (self._live, None) if not self._running else (None, self._live)
        if live is not None:
            live.stop()

    def _render(self) -> Group:
        now = time.monotonic()
        table = Table.grid(padding=(0, 1))
        for step in list(self._running.values()):
            table.add_row(
                Spinner("dots"),
                Text(f"{printable(step.host):<22}", style="bold"),
                Text(printable(f"{step.title}: {step.status}" if step.status else step.title)),
                duration(now - step.started),
            )
        return Group(table)


class SilentProgress:
    """No display: for `--quiet` and for tests."""

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[StatusUpdate]:
        """See Progress.step."""
        yield lambda status: None

    def note(self, host: str, text: str) -> None:
        """See Progress.note."""

    def close(self) -> None:
        """See Progress.close."""

    def event(self, host: str, event: str, **facts: object) -> None:
        """See Progress.event."""


class JsonProgress:
    """One line of JSON per event, for `--json`; `time` is in UTC, `seconds` is the duration of the step."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[StatusUpdate]:
        """See Progress.step."""
        started, ok = time.monotonic(), False
        self.event(host, "started", step=title)
        try:
            yield lambda status: self.event(host, "progress", step=title, status=status)
            ok = True
        finally:
            self.event(host, "ended", step=title, ok=ok, seconds=round(time.monotonic() - started, 3))

    def note(self, host: str, text: str) -> None:
        """See Progress.note."""
        self.event(host, "note", text=text)

    def event(self, host: str, event: str, **facts: object) -> None:
        """See Progress.event."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "host": host, "event": event, **facts}, ensure_ascii=False)
        with self._lock:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """See Progress.close."""
