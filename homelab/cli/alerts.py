"""Verbs for the messages about incidents."""

from __future__ import annotations

import typer

from homelab.cli.global_options import Json, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    alerts = typer.Typer(no_args_is_help=True, help="Messages about incidents.")
    add_verb(alerts, send_test, "test")
    app.add_typer(alerts, name="alerts")


def send_test(as_json: Json = False) -> None:
    """Send a test message through each receiver of `alerts:`, from the container that sends the messages.

    Exits with 1 if a receiver does not take it.

    Example:  homelab alerts test
    """
    from homelab.commands.alerts import send_test as run

    outcome = run(settings.session())

    def text() -> None:
        for each in outcome.deliveries:
            echo(f"{'✓' if each.sent else '✗'} {each.receiver}: {each.reason or 'sent'}")

    print_result(outcome, as_json, text)
    if not outcome.all_sent:
        raise typer.Exit(1)
