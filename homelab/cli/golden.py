"""The verb that makes golden containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.common import Json, Yes, agreed_to_lines, emit, settings, trust_of


def register(app: typer.Typer) -> None:
    """Add this verb."""
    app.command()(bake)


def bake(
    name: Annotated[str, typer.Argument(help="The container.")],
    vmid: Annotated[int | None, typer.Option(min=100, help="The golden container's vmid; the next free one if left "
                                                           "out.")] = None,
    storage: Annotated[str | None, typer.Option(help="Where its disks go; the container's own storage if left out."
                                                )] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the golden container instead.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a golden container of a deployed one: a template that `up` clones for whoever says `golden: NAME`.

    The container is shut down, copied and started again. All that is in it is in the copy: passwords, keys and data.

    Example:  homelab bake analytics-platform
    """
    from homelab.commands import bake as command
    from homelab.view import show_outcome

    inventory = settings.load()
    _, known_hosts = trust_of(inventory)
    if delete:
        outcome = command.remove(inventory, name, progress=settings.progress(),
                                 confirm=agreed_to_lines(f"bake {name} --delete", "It will be gone. Go on?", yes))
    else:
        outcome = command.bake(inventory, name, known_hosts=known_hosts, progress=settings.progress(), vmid=vmid,
                               storage=storage,
                               confirm=agreed_to_lines(f"bake {name}", f"{name} is down meanwhile. Go on?", yes))
    emit(outcome, as_json, lambda: show_outcome(outcome))
