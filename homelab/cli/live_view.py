"""A view on the whole terminal that is drawn again for each report, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import Generic, TypeVar

from rich.console import Console, RenderableType
from rich.text import Text

from homelab.cli import standard_input
from homelab.errors import HomelabError
from homelab.runtime.concurrency import start
from homelab.runtime.interactive import default_interrupt

Report = TypeVar("Report")
_QUIT = ("q", "Q", "\x04")  # also Ctrl-D
_TERMINATED = 128 + signal.SIGTERM
_REFRESH = 0.2  # seconds between two checks for a report and a new size of the terminal


class LiveView(Generic[Report]):
    """A view that reads reports in the background every `interval` seconds, and draws the newest one.

    `draw` gets a report and the size of the terminal; `draw_error` shows that a report cannot be read.
    """

    def __init__(
        self,
        read: Callable[[], Report],
        draw: Callable[[Report, int, int], RenderableType],
        draw_error: Callable[[HomelabError], RenderableType],
        interval: float,
    ) -> None:
        self._read, self._draw, self._draw_error, self._interval = read, draw, draw_error, interval

    def show(self, target: Console) -> None:
        """Show reports until q; restore the terminal in any case. Raises KeyboardInterrupt."""
        with default_interrupt(), _termination(), _single_keys() as pressed, target.screen() as screen:
            newest: Future[Report] | None = None
            reading, due = start("report", self._read), time.monotonic() + self._interval
            drawn: object = None
            while True:
                if reading.done():
                    newest = reading
                    if time.monotonic() >= due:
                        reading, due = start("report", self._read), time.monotonic() + self._interval
                if drawn != (state := (newest, target.size)):
                    screen.update(self._picture(newest, target))
                    drawn = state
                if pressed(_REFRESH) in _QUIT:
                    return

    def _picture(self, newest: Future[Report] | None, target: Console) -> RenderableType:
        """Return the picture of the newest report, or of its HomelabError. Raises all other errors."""
        if newest is None:
            return Text("Reading …", "dim")
        try:
            return self._draw(newest.result(), target.width, target.height)
        except HomelabError as error:
            return self._draw_error(error)


@contextmanager
def _single_keys() -> Iterator[Callable[[float], str]]:
    """Set the terminal to pass on each key without echo; yield a function that waits for a key, "" without one."""
    if not standard_input.is_terminal():
        yield _no_key
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return os.read(terminal, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(terminal)
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _termination() -> Iterator[None]:
    """Raise SystemExit at SIGTERM, so that the block restores the terminal before the end."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
