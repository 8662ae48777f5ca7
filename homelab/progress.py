"""What a person sees while long work goes on: the only importer of rich's live display.

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

Update = Callable[[str], None]
_PLAIN_EVERY = 10.0  # seconds between two lines of one step where nothing can be written over


class Progress(Protocol):
    """Where long work reports itself; safe to use from several threads at once."""

    def step(self, who: str, what: str) -> AbstractContextManager[Update]:
        """A context that shows the work while it runs, and how long it took when it is done.

        It gives a function that says how far the work is, as `37 %`: call it as often as you like.
        """

    def note(self, who: str, text: str) -> None:
        """A line that stays."""

    def event(self, who: str, event: str, **facts: object) -> None:
        """What a script, or a person with --verbose, may want to know: a command and what it printed, a step's end."""

    def close(self) -> None:
        """Show nothing any more: the terminal is somebody else's from now on."""


def duration(seconds: float) -> str:
    """A span of time for people: `0.4 s`, `12 s`, `2 min 05 s`, `3 h 04 min`, `2 d 7 h`."""
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
class _Step:
    """A step that is going on: since when, how far, and when that was last written as a line; monotonic seconds."""

    who: str
    what: str
    started: float
    said: float
    far: str = ""


class TerminalProgress:
    """Live lines on a terminal, plain lines otherwise or with CI set."""

    def __init__(self, console: Console | None = None, every: float = _PLAIN_EVERY, verbose: bool = False) -> None:
        self._every, self._verbose = every, verbose
        self._console = console or Console(stderr=True, highlight=False)
        self._live_wanted = self._console.is_terminal and not os.environ.get("CI")
        self._running: dict[int, _Step] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._count = 0

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[Update]:
        """See Progress.step."""
        started = time.monotonic()
        step = _Step(who, what, started, started)
        token = self._enter(step)
        mark, style = "✗", "red"
        try:
            yield partial(self._update, step)
            mark, style = "✓", "green"
        finally:
            self._leave(token)
            self._line(mark, style, who, f"{what}  [{duration(time.monotonic() - started)}]")

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self._line("·", "cyan", who, text)

    def event(self, who: str, event: str, **facts: object) -> None:
        """See Progress.told: commands are shown if the user wants to see them, all else is for scripts."""
        if self._verbose and event == "command":
            self._line("$", "dim", who, f"{facts['command']}\n{facts['output']}\n[status {facts['status']}]".strip())

    def close(self) -> None:
        """See Progress.close."""
        with self._lock:
            live, self._live, self._live_wanted = self._live, None, False
        if live is not None:
            live.stop()

    def _line(self, mark: str, style: str, who: str, text: str) -> None:
        line = Text.assemble((f"{mark} ", style), (f"{who:<22} ", "bold"), text)
        with self._lock:
            self._console.print(line, soft_wrap=True)

    def _update(self, step: _Step, far: str) -> None:
        now, before, step.far = time.monotonic(), step.far, far
        if not self._live_wanted and far != before and now - step.said >= self._every:
            step.said = now
            self._line("·", "cyan", step.who, f"{step.what}: {far}")

    def _enter(self, step: _Step) -> int:
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
                Text(f"{step.who:<22}", style="bold"),
                Text(f"{step.what}: {step.far}" if step.far else step.what),
                duration(now - step.started),
            )
        return Group(table)


class SilentProgress:
    """Shows nothing: for `--quiet` and for tests."""

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[Update]:
        """See Progress.step."""
        yield lambda far: None

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""

    def close(self) -> None:
        """See Progress.close."""

    def event(self, who: str, event: str, **facts: object) -> None:
        """See Progress.told."""


class JsonProgress:
    """One line of JSON for each event, as it happens: for `--json`. `time` is in UTC, `seconds` since the start."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[Update]:
        """See Progress.step."""
        started, good = time.monotonic(), False
        self.event(who, "started", step=what)
        try:
            yield lambda far: self.event(who, "progress", step=what, far=far)
            good = True
        finally:
            self.event(who, "ended", step=what, good=good, seconds=round(time.monotonic() - started, 3))

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self.event(who, "note", text=text)

    def event(self, who: str, event: str, **facts: object) -> None:
        """See Progress.told."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "host": who, "event": event, **facts}, ensure_ascii=False)
        with self._lock:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """See Progress.close."""
