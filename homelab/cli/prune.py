"""The verb that deletes the data of a removed service or pipeline."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.confirmation import confirm_lines
from homelab.cli.global_options import Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add this verb."""
    add_verb(app, prune)


def prune(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The service or the pipeline that left the inventory.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete the data of a service or pipeline that left the inventory.

    `homelab deploy` removes a service or a pipeline, and keeps its data: databases, schemas, roles, and folders. This
    command lists the data that nothing else uses, asks for confirmation, and deletes it. Backups stay.

    Example:  homelab prune airflow
    """
    from homelab.commands.prune import prune as run
    from homelab.services.registry import Registry

    ask = confirm_lines(f"Delete this data of {name}? It cannot be restored without a backup.", yes)
    outcome = run(settings.session(), name, Registry(settings.folder), ask)
    print_result(outcome, as_json, lambda: echo(outcome))
    if not outcome.confirmed:
        raise typer.Exit(1)
