"""The verb that opens a web UI."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from homelab.cli import completion
from homelab.cli.global_options import add_verb, settings
from homelab.cli.results import echo


def register(app: typer.Typer) -> None:
    """Add this verb."""
    add_verb(app, open_, "open")


def open_(
    service: Annotated[
        str | None, typer.Argument(help="The service; by default the start page.", autocompletion=completion.web_uis)
    ] = None,
) -> None:
    """Open the web UI of a service in the browser, and print its address.

    Without a desktop, for example over SSH, only print the address.

    Example:  homelab open airflow
    """
    from homelab.commands.open_ import web_address

    url = web_address(settings.session().inventory, service)
    echo(url)
    if sys.stdout.isatty() and _has_desktop():
        typer.launch(url)


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
