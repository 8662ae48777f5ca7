"""Verbs about the weather pipeline and what it publishes."""

from __future__ import annotations

import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from homelab.cli.common import Json, emit, open_state, settings
from homelab.errors import InputError


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    app.command()(query)
    app.command()(docs)
    pipeline = typer.Typer(no_args_is_help=True, help="The weather pipeline.")
    for name, verb in (("run", run), ("status", status), ("backfill", backfill), ("rebuild", rebuild)):
        pipeline.command(name)(verb)
    app.add_typer(pipeline, name="pipeline")


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement for DuckDB; a shell if left out.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the published marts. Readers never wait for a build, and never see half of one.

    Without SQL this is a shell: statements end with a semicolon, `.tables` lists what there is. What is piped into it
    is run statement by statement.

    Example:  homelab query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.cli.output import show_rows
    from homelab.commands.query import query as run_query
    from homelab.commands.query import shell_argv
    from homelab.runtime.interactive import run_interactive

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    if sql is None:
        words = shell_argv(inventory, secret_store, known_hosts, "json" if as_json else "table", sys.stdin.isatty())
        raise typer.Exit(run_interactive(words)[0])
    rows = run_query(inventory, sql, secret_store=secret_store, known_hosts=known_hosts)
    emit(rows, as_json, lambda: show_rows(rows))


def docs(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to put the page.")] = Path("warehouse.html"),
    show: Annotated[bool, typer.Option("--open/--no-open", help="Show it in a browser.")] = True,
) -> None:
    """Fetch the warehouse's documentation: every table, column, test, and where it comes from, as one page.

    Example:  homelab docs --output /tmp/warehouse.html --no-open
    """
    from homelab.commands.docs import fetch

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    page = fetch(inventory, secret_store=secret_store, known_hosts=known_hosts, progress=settings.progress())
    output.write_bytes(page)
    typer.echo(f"{output}: {len(page) // 1024} KiB")
    if show and sys.stdout.isatty():
        typer.launch(str(output.resolve()))


def run(as_json: Json = False) -> None:
    """Run the pipeline now, and wait for its end.

    Example:  homelab pipeline run
    """
    from homelab.commands.pipeline import run as run_now

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    outcome = run_now(inventory, secret_store=secret_store, known_hosts=known_hosts, progress=settings.progress())
    emit(outcome, as_json, lambda: typer.echo(str(outcome)))


def status(as_json: Json = False) -> None:
    """Show the last fetches and the last build, and what is missing of the last days.

    Example:  homelab pipeline status
    """
    from homelab.cli.output import show_rows
    from homelab.commands.backfill import status as read

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    report = read(inventory, secret_store=secret_store, known_hosts=known_hosts)

    def text() -> None:
        for line in report.lines():
            typer.echo(line)
        if report.runs:
            typer.echo("\nThe last fetches:")
            show_rows(report.runs)
        if report.missing:
            typer.echo("\nMissing of the last days:")
            show_rows(report.missing)

    emit(report, as_json, text)


def backfill(
    file: Annotated[
        Path | None, typer.Argument(help="JSON or JSON lines: answers of OpenWeather, or of its history API.")
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            help="Instead of a file: ask OpenWeather's history API, from this day (UTC) on.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            "--to", formats=["%Y-%m-%d"], help="… up to this day, which is no part of it; today, if left out."
        ),
    ] = None,
    city: Annotated[
        list[str] | None,
        typer.Option(
            help="Whose observations these are, where the file does not say; "
            "with --from, only this one, and may be repeated."
        ),
    ] = None,
    units: Annotated[
        Literal["standard", "metric", "imperial"] | None,
        typer.Option(help="Their units; those of the inventory, if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bring history into the raw observations, from a file or from OpenWeather. What is there already stays as it is.

    OpenWeather's history API is not part of its free plan. It is asked for a week of a city at a time, within the
    inventory's rate limit; a run that was cut off goes on where it stopped. The marts take all of it in with the next
    run of the pipeline.

    Example:  homelab pipeline backfill --from 2019-01-01 --to 2019-02-01

    Example:  homelab pipeline backfill 2019.jsonl --city Newark,US --units metric
    """
    from homelab.commands import backfill as commands

    cities = city or []
    if file and not first and not until and len(cities) <= 1:
        bring_in = partial(commands.backfill, file=file, city=cities[0] if cities else None)
    elif first and not file:
        bring_in = partial(commands.history, first=first.date(), until=until and until.date(), cities=cities)
    else:
        raise InputError(
            "It is either a file or days",
            "A file comes with one --city at most, --to with --from.",
            "Say `homelab pipeline backfill FILE`, or `homelab pipeline backfill --from DAY`.",
        )
    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    outcome = bring_in(
        inventory, units=units, secret_store=secret_store, known_hosts=known_hosts, progress=settings.progress()
    )
    emit(outcome, as_json, lambda: typer.echo(str(outcome)))


def rebuild(as_json: Json = False) -> None:
    """Build the marts anew from all raw observations: after a restore, or when their meaning has changed.

    Example:  homelab pipeline rebuild
    """
    from homelab.commands.pipeline import rebuild as build

    inventory = settings.load()
    secret_store, known_hosts = open_state(inventory)
    outcome = build(inventory, secret_store=secret_store, known_hosts=known_hosts, progress=settings.progress())
    emit(outcome, as_json, lambda: typer.echo(str(outcome)))
