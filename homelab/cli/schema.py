"""The verb that prints the JSON Schema of the inventory."""

from __future__ import annotations

import typer

from homelab.cli.global_options import add_verb, settings


def register(app: typer.Typer) -> None:
    """Add this verb."""
    add_verb(app, schema)


def schema() -> None:
    """Print the JSON Schema of the inventory, with the options of all services, for editors and other tools.

    An editor finds it by the first line of the inventory: `# yaml-language-server: $schema=inventory.schema.json`.

    Example:  homelab schema > inventory.schema.json
    """
    from homelab.inventory.json_schema import render
    from homelab.services.registry import Registry

    typer.echo(render(Registry(settings.folder)), nl=False)
