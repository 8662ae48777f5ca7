"""Verbs for the lab's secrets."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli import completion, standard_input
from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result

_AIRFLOW_ADMIN = "airflow-admin"


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    secret = typer.Typer(no_args_is_help=True, help="Show, list and set the lab's secrets.")
    add_verb(secret, show)
    add_verb(secret, list_, "list")
    add_verb(secret, set_, "set")
    app.add_typer(secret, name="secret")


def show(
    name: Annotated[str, typer.Argument(help="The secret's name.", autocompletion=completion.secrets)] = _AIRFLOW_ADMIN,
) -> None:
    """Print a secret; by default the password of Airflow's user `admin`.

    Example:  homelab secret show | wl-copy
    """
    from homelab.commands.secret import show as run

    typer.echo(run(settings.session(), name).reveal())


def list_(as_json: Json = False) -> None:
    """List the names of the secrets.

    Example:  homelab secret list
    """
    names = settings.session().secrets.names()
    print_result(names, as_json, lambda: echo("\n".join(names) or "There are no secrets yet."))


def set_(
    name: Annotated[str, typer.Argument(help="The secret's name.", autocompletion=completion.secrets)], yes: Yes = False
) -> None:
    """Store a secret: typed without echo, or piped in. The next deploy writes it where it is used.

    Example:  homelab secret set airflow-admin
    """
    from homelab.commands.secret import check_name
    from homelab.commands.secret import set_ as run

    check_name(name)
    session = settings.session()
    replacing = name in session.secrets.names()
    if replacing and not confirm(f"Secret {name} exists. Replace it?", yes):
        raise typer.Exit(1)
    if standard_input.is_terminal():
        value = typer.prompt(name, hide_input=True, confirmation_prompt=True)
    else:
        value = "".join(standard_input.lines())
    run(session, name, value)
    echo(f"{name} is stored")
