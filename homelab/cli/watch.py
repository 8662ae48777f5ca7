"""A report that is read and shown again until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from homelab.cli.output import console
from homelab.cli.results import print_error, print_json_line
from homelab.errors import HomelabError
from homelab.runtime.interactive import default_interrupt

Report = TypeVar("Report")


def watch(
    read: Callable[[], Report],
    show: Callable[[Report, Console], None],
    interval: float,
    as_json: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Report | None:
    """Show the report every `interval` seconds and return the last one; None if there was none.

    On a terminal, each report replaces the one before. JSON is one object per line. An error is shown, and the next
    report is read as usual.
    """
    target, last = console(), None
    live = target.is_terminal and not as_json
    try:
        with default_interrupt(), target.screen() if live else nullcontext() as screen:
            while True:
                try:
                    last = read()
                    text = "" if as_json else _text_of(last, show, target)
                except HomelabError as error:
                    text = f"{error.brief}\n{error.details}\n"
                    if not live:
                        print_error(error)
                else:
                    if as_json:
                        print_json_line(last)
                    elif not live:
                        target.print(text, end="")
                if screen:
                    now = f"{datetime.now():%H:%M:%S}, every {interval:g} s; Ctrl-C ends"
                    screen.update(Text.assemble(Text.from_ansi(text), "\n", (now, "dim")))
                sleep(interval)
    except KeyboardInterrupt:
        return last


def _text_of(report: Report, show: Callable[[Report, Console], None], target: Console) -> str:
    with target.capture() as captured:
        show(report, target)
    return captured.get()
