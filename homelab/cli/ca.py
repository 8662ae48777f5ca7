"""Verbs for the lab's CA."""

from __future__ import annotations

import typer

from homelab.cli.global_options import Json, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    ca = typer.Typer(no_args_is_help=True, help="Show and export the CA that signs the lab's server certificates.")
    add_verb(ca, show)
    add_verb(ca, export)
    app.add_typer(ca, name="ca")


def show(as_json: Json = False) -> None:
    """Show the CA's fingerprint, the end of its validity, and the names that it is limited to.

    Example:  homelab ca show
    """
    from homelab.commands.ca_show import show as run

    shown = run(settings.session())
    print_result(shown, as_json, lambda: echo(shown))


def export(as_json: Json = False) -> None:
    """Print the CA's certificate (PEM) for clients outside the lab. It contains no secret.

    Example:  homelab ca export > homelab-ca.crt
    """
    from homelab.commands.ca_export import export as run

    certificate = run(settings.session())
    print_result(certificate, as_json, lambda: echo(certificate.rstrip()))
