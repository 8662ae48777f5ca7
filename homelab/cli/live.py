"""Verbs for live views of the lab."""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from shutil import get_terminal_size
from typing import Annotated

import typer

from homelab.cli import standard_input
from homelab.cli.global_options import Interval, Json, add_verb, settings
from homelab.cli.results import echo, print_json
from homelab.errors import INTERRUPTED, InputError

_PIPE_WIDTH, _PIPE_HEIGHT = 120, 24  # columns and lines without a terminal, unless COLUMNS and LINES are set


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    add_verb(app, top)
    add_verb(app, tmux)


def top(
    interval: Interval = 5,
    once: Annotated[
        bool, typer.Option("--once", help="Print one picture and end; the default without a terminal.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show containers, units, pipelines, PostgreSQL's activity and the last log lines live; q quits.

    The sparklines show the last hour if the inventory has Prometheus, otherwise the samples since the start. With
    --json, each sample is one line.

    Example:  homelab top --interval 10
    """
    from homelab.cli.live_view import LiveView
    from homelab.cli.output import console
    from homelab.cli.top_screen import draw, draw_error
    from homelab.cli.watch import watch
    from homelab.commands.top import top as run

    target = console()
    with closing(run(settings.session())) as sampler:
        if as_json and not once:
            watch(sampler.sample, lambda sample, _: None, interval, as_json=True)
        elif as_json:
            print_json(sampler.sample())
        elif once or not target.is_terminal or target.is_dumb_terminal:
            size = (target.width, target.height)
            if not target.is_terminal:
                size = get_terminal_size((_PIPE_WIDTH, _PIPE_HEIGHT))
            target.print(draw(sampler.sample(), *size))
        else:
            footer = f"every {interval:g} s; q quits"
            view = LiveView(sampler.sample, partial(draw, footer=footer), draw_error, interval)
            try:
                view.show(target)
            except KeyboardInterrupt:
                raise typer.Exit(INTERRUPTED) from None


def tmux(
    detached: Annotated[bool, typer.Option("--detached", "-d", help="Create the session without showing it.")] = False,
) -> None:
    """Open a tmux session with a pane for each log: services, ingestion, and dbt. Attach to it if it exists.

    Ctrl-b d leaves the session, and it continues. To end it, run `tmux kill-session` in it.

    Example:  homelab tmux
    """
    from homelab.commands.tmux import open_session

    if not detached and not standard_input.is_terminal():
        raise InputError(
            "Cannot show a tmux session: standard input is not a terminal", "", "Run `homelab tmux --detached`."
        )
    overlays = [word for path in settings.overlays for word in ("--overlay", str(path.absolute()))]
    selection = ["-i", str(settings.inventory.absolute()), *overlays, *(["--lab"] if settings.lab else [])]
    session = open_session(settings.load(), [sys.executable, "-m", "homelab", *selection])
    if detached:
        echo(f"The session runs: tmux attach -t {session.name}")
    else:
        raise typer.Exit(session.attach())
