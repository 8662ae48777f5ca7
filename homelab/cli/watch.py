"""A report that is read and shown again until Ctrl-C."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import typer
from rich.console import Console
from rich.text import Text

from homelab.cli.output import console
from homelab.cli.results import print_error, to_json
from homelab.errors import HomelabError

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

    def frame() -> str:
        nonlocal last
        try:
            last = read()
        except HomelabError as error:
            if not target.is_terminal or as_json:
                print_error(error)
                return ""
            return f"{error.brief}\n{error.details}\n"
        if as_json:
            return json.dumps(to_json(last), ensure_ascii=False) + "\n"
        with target.capture() as captured:
            show(last, target)
        return captured.get()

    try:
        if as_json or not target.is_terminal:
            while True:
                typer.echo(frame(), nl=False)
                sleep(interval)
        with target.screen() as screen:
            while True:
                text = Text.from_ansi(frame())
                now = f"{datetime.now():%H:%M:%S}, every {interval:g} s; Ctrl-C ends"
                screen.update(Text.assemble(text, "\n", (now, "dim")))
                sleep(interval)
    except KeyboardInterrupt:
        return last
