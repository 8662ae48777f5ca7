"""Verbs for working on the pipeline's models: all of it on this machine, without containers."""

from __future__ import annotations

from typing import Annotated

import typer

from homelab.cli.common import Json, Yes, confirm, emit, settings

_UNPUBLISHED = Annotated[bool, typer.Option("--unpublished", help="What dbt has built last, tested or not.")]


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    dev = typer.Typer(
        no_args_is_help=True, help="The pipeline on this machine, without containers, for working on its models."
    )
    dev.command("run")(run)
    dev.command("query")(query)
    dev.command("dbt", context_settings={"ignore_unknown_options": True, "help_option_names": []})(dbt)
    dev.command("reset")(reset)
    app.add_typer(dev, name="dev")


def run(
    hours: Annotated[int, typer.Option(min=0, max=8000, help="How many hours of weather; 0: only build.")] = 24,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Build everything anew.")] = False,
    as_json: Json = False,
) -> None:
    """Bring in real weather of three cities, build and test the marts, and publish them.

    PostgreSQL and a replay of OpenWeather run on loopback meanwhile, and end with the command. What they hold stays, so
    that the next run is an increment. What is needed is installed on first use, into the inventory's state folder.

    Example:  homelab dev run --hours 48
    """
    from homelab.cli.output import show_rows
    from homelab.commands.dev import run as run_now

    outcome = run_now(settings.load(), hours, full_refresh, progress=settings.progress())

    def text() -> None:
        typer.echo(str(outcome))
        show_rows(outcome.marts)

    emit(outcome, as_json, text)


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement for DuckDB; a shell if left out.")] = None,
    unpublished: _UNPUBLISHED = False,
    as_json: Json = False,
) -> None:
    """Ask the marts that `homelab dev run` has published here; a shell, if no SQL is given.

    Example:  homelab dev query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.cli.output import show_rows
    from homelab.commands.dev import query as run_query
    from homelab.commands.dev import shell

    inventory, progress = settings.load(), settings.progress()
    if sql is None:
        raise typer.Exit(shell(inventory, "json" if as_json else "table", unpublished, progress=progress))
    rows = run_query(inventory, sql, unpublished, progress=progress)
    emit(rows, as_json, lambda: show_rows(rows))


def dbt(words: Annotated[list[str], typer.Argument(help="What dbt is asked to do.", metavar="-- ARGS")]) -> None:
    """Run dbt on the project, with the local PostgreSQL as its source. Nothing is published; dbt's exit code is kept.

    Example:  homelab dev dbt -- build -s weather_daily+
    """
    from homelab.commands.dev import dbt as run_dbt

    raise typer.Exit(run_dbt(settings.load(), words, progress=settings.progress()))


def reset(yes: Yes = False) -> None:
    """Delete the local database, its marts, and all that was installed for them.

    Example:  homelab dev reset
    """
    from homelab.commands.dev import reset as remove

    inventory = settings.load()
    if not confirm("dev reset", "Delete the local database, its marts and what was installed?", yes):
        raise typer.Exit(1)
    removed = remove(inventory)
    typer.echo(f"{removed} is gone" if removed else "There is nothing to delete")
