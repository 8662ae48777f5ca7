"""Verbs for work on the pipeline's models on this machine, without containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result

_Unpublished = Annotated[bool, typer.Option("--unpublished", help="dbt's last build, tested or not.")]


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    dev = typer.Typer(no_args_is_help=True, help="Work on the pipeline's models on this machine, without containers.")
    for verb in (run, query, reset):
        add_verb(dev, verb)
    # Everything after dbt's own command is dbt's, global options included.
    dev.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(dbt)
    app.add_typer(dev, name="dev")


def run(
    hours: Annotated[int, typer.Option(min=0, max=8000, help="Hours of weather to load; 0: only build.")] = 24,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Rebuild all models.")] = False,
    as_json: Json = False,
) -> None:
    """Load real weather of three cities, build and test the marts, and publish them.

    PostgreSQL and a replay of OpenWeather run on loopback during the command. Their data stays, so the next run is an
    increment. The first run installs what it needs into the inventory's state folder.

    Example:  homelab dev run --hours 48
    """
    from homelab.cli.output import show_rows
    from homelab.commands.dev import run as run_now

    outcome = run_now(settings.session(), hours, full_refresh)

    def text() -> None:
        echo(outcome)
        show_rows(outcome.marts)

    print_result(outcome, as_json, text)


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement for DuckDB; default: a shell.")] = None,
    unpublished: _Unpublished = False,
    as_json: Json = False,
) -> None:
    """Query the marts that `homelab dev run` has published here; without SQL, open a shell.

    Example:  homelab dev query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.cli.pipeline import run_shell, show_result
    from homelab.commands.dev import querier

    run_query = querier(settings.session(), unpublished)
    if sql is None:
        run_shell(run_query, as_json)
        return
    show_result(run_query(sql), as_json)


def dbt(words: Annotated[list[str], typer.Argument(help="dbt's command and options.", metavar="-- ARGS")]) -> None:
    """Run dbt on the project with the local PostgreSQL as its source, and exit with its status. Publishes nothing.

    Example:  homelab dev dbt -- build -s weather_daily+
    """
    from homelab.commands.dev import dbt as run_dbt

    raise typer.Exit(run_dbt(settings.session(), words))


def reset(yes: Yes = False) -> None:
    """Delete the local database, its marts and the installation.

    Example:  homelab dev reset
    """
    from homelab.commands.dev import reset as remove

    session = settings.session()
    if not confirm("Delete the local database, its marts and the installation?", yes):
        raise typer.Exit(1)
    removed = remove(session)
    echo(f"{removed} deleted" if removed else "There is nothing to delete")
