"""Verbs for Airflow."""

from __future__ import annotations

import typer

from homelab.cli.global_options import Json, add_verb, settings
from homelab.cli.results import echo, print_result


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    airflow = typer.Typer(no_args_is_help=True, help="Python packages of your own for Airflow.")
    add_verb(airflow, lock)
    app.add_typer(airflow, name="airflow")


def lock(as_json: Json = False) -> None:
    """Lock the Python packages that the inventory adds to Airflow.

    Writes airflow-packages.txt next to the inventory, with hashes. Airflow's own packages keep their versions.
    Run it again after a change of the packages, and after an update of homelab that brings another Airflow;
    `homelab deploy` asks for it.

    Example:  homelab airflow lock
    """
    from homelab.commands.airflow_lock import lock as run

    outcome = run(settings.session())
    print_result(outcome, as_json, lambda: echo(outcome))
