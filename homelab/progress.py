"""What a person sees while long work goes on: the only importer of rich's live display.

Progress goes to standard error, results go to standard output, so `--json` can be piped.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Progress(Protocol):
    """Where long work reports itself; safe to use from several threads at once."""

    def step(self, who: str, what: str) -> AbstractContextManager[None]:
        """A context that shows the work while it runs, and how long it took when it is done."""

    def note(self, who: str, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Show nothing any more: the terminal is somebody else's from now on."""


def duration(seconds: float) -> str:
    """A span of time for people: `0.4 s`, `12 s`, `2 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class TerminalProgress:
    """Live lines on a terminal, plain lines otherwise or with CI set."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live_wanted = self._console.is_terminal and not os.environ.get("CI")
        self._running: dict[int, tuple[str, str, float]] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None
        self._count = 0

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[None]:
        """See Progress.step."""
        started = time.monotonic()
        token = self._enter(who, what, started)
        mark, style = "✗", "red"
        try:
            yield
            mark, style = "✓", "green"
        finally:
            self._leave(token)
            self._line(mark, style, who, f"{what}  [{duration(time.monotonic() - started)}]")

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""
        self._line("·", "cyan", who, text)

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

    def _enter(self, who: str, what: str, started: float) -> int:
        with self._lock:
            self._count += 1
            self._running[self._count] = (who, what, started)
            if self._live_wanted and self._live is None:
                self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8,
                                  transient=True)
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
        for who, what, started in list(self._running.values()):
            table.add_row(Spinner("dots"), Text(f"{who:<22}", style="bold"), Text(what), duration(now - started))
        return Group(table)


class SilentProgress:
    """Shows nothing: for `--quiet` and for tests."""

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[None]:
        """See Progress.step."""
        yield

    def note(self, who: str, text: str) -> None:
        """See Progress.note."""

    def close(self) -> None:
        """See Progress.close."""
