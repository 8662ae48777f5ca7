"""The verb that makes golden containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.common import Json, Yes, confirm_lines, emit, open_state, settings


def register(app: typer.Typer) -> None:
    """Add this verb."""
    app.command()(bake)


def bake(
    name: Annotated[str, typer.Argument(help="The container.")],
    vmid: Annotated[
        int | None, typer.Option(min=100, help="The golden container's vmid; the next free one if left out.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Where its disks go; the container's own storage if left out.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the golden container instead.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a golden container of a deployed one: a template that `up` clones for whoever says `clone_from: NAME`.

    The container is shut down, copied and started again. All that is in it is in the copy: passwords, keys and data.

    Example:  homelab bake analytics-platform
    """
    from homelab.cli.output import show_outcome
    from homelab.commands import golden as command

    inventory = settings.load()
    _, known_hosts = open_state(inventory)
    if delete:
        outcome = command.remove(
            inventory,
            name,
            progress=settings.progress(),
            confirm=confirm_lines(f"bake {name} --delete", "It will be gone. Go on?", yes),
        )
    else:
        outcome = command.bake(
            inventory,
            name,
            known_hosts=known_hosts,
            progress=settings.progress(),
            vmid=vmid,
            storage=storage,
            confirm=confirm_lines(f"bake {name}", f"{name} is down meanwhile. Go on?", yes),
        )
    emit(outcome, as_json, lambda: show_outcome(outcome))
