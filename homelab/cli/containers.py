"""Verbs about the containers themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from homelab.cli.common import Json, Limit, Yes, confirm, emit, open_state, print_error, settings
from homelab.errors import InputError

if TYPE_CHECKING:
    from homelab.plan import Plan


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (init, doctor, plan, up, destroy, trust):
        app.command()(verb)


def init(
    host: Annotated[str | None, typer.Option(help="The Proxmox node's name or address.")] = None,
    port: Annotated[int, typer.Option(help="Its API port.")] = 8006,
) -> None:
    """Write a commented inventory.yaml, pin the node's certificate, and say how to make the token.

    Example:  homelab init --host pve.lan
    """
    from homelab.commands.init import init as run

    run(
        settings.inventory,
        host=host or typer.prompt("Proxmox node (name or address)"),
        port=port,
        confirm=typer.confirm,
        ask=lambda text: typer.prompt(text, hide_input=True, default="", show_default=False),
        say=typer.echo,
    )


def doctor(as_json: Json = False) -> None:
    """Check everything that the rest needs: token, privileges, storage, bridge, template, clock, OpenWeather's key.

    Each check is ok or says what to do. Changes nothing. Exit code 0 only if all is well.

    Example:  homelab doctor
    """
    from homelab.cli.output import show_checks
    from homelab.commands.doctor import doctor as run

    diagnosis = run(settings.load())
    emit(diagnosis, as_json, lambda: show_checks(diagnosis))
    if not diagnosis.healthy:
        raise typer.Exit(1)


def plan(
    limit: Limit = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit with 0: nothing to do, 2: something to do, 1: an error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what `up` would do to the containers, and `deploy` inside those that run. Changes nothing.

    Each line says when it takes effect: live, pending until restart, or restarts the container.

    Example:  homelab plan --detailed-exitcode
    """
    from homelab.cli.output import show_preview
    from homelab.commands.plan import preview as run

    try:
        inventory = settings.load()
        secret_store, known_hosts = open_state(inventory)
        result = run(
            inventory,
            secret_store=secret_store,
            known_hosts=known_hosts,
            progress=settings.progress(),
            limit=limit or (),
        )
    except InputError as error:
        if not detailed_exitcode:
            raise
        print_error(error)  # its own exit code, 2, has another meaning here
        raise typer.Exit(1) from error
    emit(result, as_json, lambda: show_preview(result))
    if detailed_exitcode and (result or result.unseen):
        raise typer.Exit(2 if result else 1)


def up(limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Create, update and start the containers, so that they are what the inventory says.

    It shows the plan first, and asks only where a running container would be restarted.

    Example:  homelab up --limit postgres-data
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.up import up as run

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    outcome = run(
        inventory,
        secret_store=secret_store,
        known_hosts=known_hosts,
        progress=settings.progress(),
        confirm=_confirm("up", "Running containers would be restarted. Go on?", yes),
        limit=limit or (),
    )
    emit(outcome, as_json, lambda: show_outcome(outcome))


def _confirm(verb: str, question: str, yes: bool) -> Callable[[Plan], bool]:
    """Shows a plan, and asks if it does harm. Raises InputError when nobody is there to answer."""
    from homelab.cli.output import show_lines
    from homelab.commands.plan import lines

    def ask(plan: Plan) -> bool:
        show_lines(lines(plan))
        return not plan.harms or confirm(verb, question, yes)

    return ask


def destroy(limit: Limit = None, yes: Yes = False, as_json: Json = False) -> None:
    """Remove the inventory's containers and all that is in them. Nothing that is not ours is touched.

    Example:  homelab destroy --limit airflow-orchestration
    """
    from homelab.cli.output import show_outcome
    from homelab.commands.destroy import destroy as run

    inventory = settings.load()
    _, known_hosts = open_state(inventory)
    outcome = run(
        inventory,
        known_hosts=known_hosts,
        progress=settings.progress(),
        limit=limit or (),
        confirm=_confirm("destroy", "These containers and all their data will be gone. Go on?", yes),
    )
    emit(outcome, as_json, lambda: show_outcome(outcome))


def trust(
    name: Annotated[str, typer.Argument(help="The container.")],
    fingerprint: Annotated[
        str | None,
        typer.Argument(
            help="SHA256:…, as `ssh-keygen -lf` on the container shows it; read from Proxmox's log if left out."
        ),
    ] = None,
) -> None:
    """Trust a container's SSH host key anew, after you made it again yourself.

    Where Proxmox's log of its creation is gone, it says which command on the node shows the key, and asks.

    Example:  homelab trust postgres-data
    """
    from homelab.commands.trust import trust as run

    inventory = settings.load()
    _, known_hosts = open_state(inventory)
    pin = run(
        inventory,
        name,
        fingerprint,
        known_hosts=known_hosts,
        ask=(lambda question: str(typer.prompt(question, err=True))) if sys.stdin.isatty() else None,
    )
    typer.echo(f"{name}: {pin.fingerprint} is trusted from now on")
