"""Verbs about the containers themselves."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Json, Limit, Yes, emit, settings, trust
from homelab.errors import InputError

if TYPE_CHECKING:
    from homelab.plan import Plan


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (init, up, destroy):
        app.command()(verb)


def init(
    host: Annotated[str | None, typer.Option(help="The Proxmox node's name or address.")] = None,
    port: Annotated[int, typer.Option(help="Its API port.")] = 8006,
) -> None:
    """Write a commented inventory.yaml, pin the node's certificate, and say how to make the token.

    Example:  homelab init --host pve.lan
    """
    from homelab.commands.init import init as run

    run(settings.inventory, host=host or typer.prompt("Proxmox node (name or address)"), port=port,
        confirm=typer.confirm, ask=lambda text: typer.prompt(text, hide_input=True, default="", show_default=False),
        say=typer.echo)


def up(limit: Limit = None, as_json: Json = False) -> None:
    """Create, update and start the containers, so that they are what the inventory says.

    Example:  homelab up --limit postgres-data
    """
    from homelab.commands.up import up as run
    from homelab.view import show_outcome

    inventory = settings.load()
    vault, known_hosts = trust(inventory)
    outcome = run(inventory, vault=vault, known_hosts=known_hosts, progress=settings.progress(),
                  confirm=_show, limit=limit or ())
    emit(outcome, as_json, lambda: show_outcome(outcome))


def _show(plan: Plan) -> bool:
    for action in plan.actions:
        typer.echo(f"  {action}", err=True)
    return True


def destroy(limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove the inventory's containers and all that is in them. Nothing that is not ours is touched.

    Example:  homelab destroy --limit airflow-orchestration
    """
    from homelab.commands.destroy import destroy as run
    from homelab.view import show_outcome

    def confirm(plan: Plan) -> bool:
        _show(plan)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise InputError("Nobody is there to confirm", "Standard input is not a terminal.",
                             "Say `homelab destroy --yes` if you mean it.")
        return typer.confirm("These containers and all their data will be gone. Go on?", err=True)

    inventory = settings.load()
    _, known_hosts = trust(inventory)
    outcome = run(inventory, known_hosts=known_hosts, progress=settings.progress(), confirm=confirm, limit=limit or ())
    emit(outcome, as_json, lambda: show_outcome(outcome))
