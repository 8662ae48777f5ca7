"""Verbs for services."""

from __future__ import annotations

import contextlib
import os
from typing import Annotated

import typer

from homelab.cli.global_options import Json, add_verb, settings
from homelab.cli.results import echo, print_result
from homelab.errors import InputError


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    add_verb(app, services)
    service = typer.Typer(no_args_is_help=True, help="Services of your own.")
    add_verb(service, new)
    app.add_typer(service, name="service")


def services(as_json: Json = False) -> None:
    """List all services with their origin: homelab, an installed package, or a file next to the inventory.

    Example:  homelab services
    """
    from homelab.commands.service_list import list_services
    from homelab.inventory import load
    from homelab.services.registry import Registry

    registry, inventory = Registry(settings.folder), None
    if settings.inventory.exists():
        with contextlib.suppress(InputError):  # an inventory with a service that is not approved yet
            inventory = load(settings.paths, registry=registry)
    rows = list_services(registry, inventory)

    def show() -> None:
        from homelab.cli.output import show_rows

        show_rows(
            [
                {
                    "service": row.name,
                    "origin": f"{row.origin} {row.version}".strip(),
                    "containers": ", ".join(row.containers),
                    "description": row.error or row.description,
                }
                for row in rows
            ]
        )

    print_result(rows, as_json, show)


def new(
    name: Annotated[str, typer.Argument(help="The service's name: lower-case letters, digits and underscores.")],
) -> None:
    """Write a service of your own next to the inventory: its module, its template and its test.

    Example:  homelab service new file_share
    """
    from homelab.commands.service_new import new_service

    module, *others = new_service(settings.folder, name)
    for path in (module, *others):
        echo(f"written: {os.path.relpath(path)}")
    echo(f"Read it, then approve it:\n  homelab trust code {os.path.relpath(module)}")
    echo(f"Then add `{name}: {{}}` to the services of a container.")
