"""Verbs for pipelines and their published marts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homelab.cli import corrections, pipeline_folders, standard_input
from homelab.cli.confirmation import confirm
from homelab.cli.corrections import TIME_FORMATS
from homelab.cli.global_options import Json, PipelineArgument, PipelineOption, Yes, add_verb, settings
from homelab.cli.results import echo, print_json, print_result

if TYPE_CHECKING:
    from homelab.runtime.marts import Rows


def register(app: typer.Typer) -> None:
    """Add these verbs."""
    add_verb(app, query)
    add_verb(app, docs)
    add_verb(app, pull)
    pipeline = typer.Typer(
        no_args_is_help=True, help="Write, run, inspect and rebuild pipelines; backfill and correct the weather."
    )
    pipeline_folders.register(pipeline)
    add_verb(pipeline, lock)
    add_verb(pipeline, list_pipelines, "list")
    for verb in (run, status, rebuild, move, unarchive):
        add_verb(pipeline, verb)
    corrections.register(pipeline)
    app.add_typer(pipeline, name="pipeline")


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement; default: a shell.")] = None,
    pipeline: PipelineOption = None,
    now: Annotated[
        bool, typer.Option("--now", help="Query weather_now in PostgreSQL instead, the newest reading of each city.")
    ] = False,
    at: Annotated[
        datetime | None,
        typer.Option(
            formats=TIME_FORMATS,
            help="Query the marts of the lake as they were at this time; without an offset in UTC.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON; binary values as base64.")] = False,
) -> None:
    """Query the published marts of a pipeline. A query never waits for a build and never sees half of one.

    The SQL is in DuckDB's dialect, with --now in PostgreSQL's. Without SQL, opens a shell: statements end with a
    semicolon, .help lists its commands. Piped statements run one by one.

    Example:  homelab query "select * from weather_daily order by observation_date desc limit 10"

    Example:  homelab query --at 2026-11-01 "select * from weather_records"

    Example:  homelab query --now "select city, temperature_c, observation_timestamp from weather_now"
    """
    from homelab.commands.query import query as run_query

    session = settings.session()
    if sql is None:
        run_shell(lambda statement: run_query(session, statement, pipeline, at, now=now), as_json)
        return
    show_result(run_query(session, sql, pipeline, at, now=now), as_json)


def show_result(rows: Rows, as_json: bool) -> None:
    """Print a statement's rows."""
    from homelab.cli.output import show_rows

    print_result(rows, as_json, lambda: show_rows(rows))


def run_shell(run: Callable[[str], Rows], as_json: bool) -> None:
    """Run statements from the terminal or from standard input. Raises HomelabError at an error in piped ones."""
    from homelab.cli.output import show_rows
    from homelab.runtime.sql_shell import SqlShell, history_file

    shell = SqlShell(run, print_json if as_json else show_rows, echo)
    if standard_input.is_terminal():
        shell.interact(history_file())
    else:
        shell.run_all(standard_input.lines())


class Format(StrEnum):
    """The formats of pulled marts."""

    duckdb = "duckdb"
    parquet = "parquet"


def pull(
    pipeline: PipelineArgument = None,
    kind: Annotated[Format, typer.Option("--format", help="One DuckDB file, or a folder of Parquet files.")] = (
        Format.duckdb
    ),
    to: Annotated[Path | None, typer.Option(help="Target; default: PIPELINE.duckdb, or the folder PIPELINE.")] = None,
    as_json: Json = False,
) -> None:
    """Copy a pipeline's published marts to this machine. Replaces an earlier copy when the new one is complete.

    Example:  homelab pull --format parquet --to marts
    """
    from homelab.commands.pull import pull as run
    from homelab.runtime.deployed_pipelines import deployed_pipeline

    session = settings.session()
    chosen = deployed_pipeline(session.inventory, pipeline)
    target = to or Path(f"{chosen.name}.duckdb" if kind is Format.duckdb else chosen.name)
    pulled = run(session, chosen, target, kind.value)
    print_result(pulled, as_json, lambda: echo(pulled))


def docs(
    pipeline: PipelineArgument = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; default: PIPELINE.html.")
    ] = None,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Fetch the documentation of a pipeline's marts as one HTML page: tables, columns, tests, lineage.

    Example:  homelab docs --output /tmp/weather.html --no-open
    """
    from homelab.commands.docs import fetch
    from homelab.runtime.deployed_pipelines import deployed_pipeline

    session = settings.session()
    chosen = deployed_pipeline(session.inventory, pipeline)
    page, file = fetch(session, chosen), output or Path(f"{chosen.name}.html")
    file.write_bytes(page)
    echo(f"{file}: {len(page) // 1024} KiB")
    if show and sys.stdout.isatty():
        typer.launch(str(file.resolve()))


def lock(
    pipeline: Annotated[str, typer.Argument(help="A pipeline of your own, with a requirements.in.")],
    as_json: Json = False,
) -> None:
    """Lock the Python packages of a pipeline's scripts. Resolves requirements.in into requirements.txt, with hashes.

    Example:  homelab pipeline lock prices
    """
    from homelab.commands.pipeline_lock import lock as run_lock

    locked = run_lock(settings.session(), pipeline)
    print_result(locked, as_json, lambda: echo(locked))


def list_pipelines(as_json: Json = False) -> None:
    """List the pipelines of the inventory.

    Example:  homelab pipeline list
    """
    from homelab.cli.output import show_rows
    from homelab.commands.pipeline_list import pipelines

    rows = pipelines(settings.load())
    print_result(rows, as_json, lambda: show_rows([asdict(row) for row in rows]))


def run(pipeline: PipelineArgument = None, as_json: Json = False) -> None:
    """Run a pipeline now and wait for its end.

    Example:  homelab pipeline run
    """
    from homelab.commands.pipeline_run import run as run_now

    outcome = run_now(settings.session(), pipeline)
    print_result(outcome, as_json, lambda: echo(outcome))


def status(pipeline: PipelineArgument = None, as_json: Json = False) -> None:
    """Show the last runs and the last build of a pipeline. For the weather, also the missing hours of the last days.

    Example:  homelab pipeline status
    """
    from homelab.cli.output import show_rows
    from homelab.commands.pipeline_status import own_status
    from homelab.commands.pipeline_status import status as read

    session = settings.session()
    chosen = session.inventory.chosen_pipeline(pipeline)
    if not chosen.is_weather:
        own = own_status(session, chosen.name)
        print_result(own, as_json, lambda: echo("\n".join(own.lines())))
        return
    report = read(session)

    def text() -> None:
        for line in report.lines():
            echo(line)
        if report.runs:
            echo("\nThe last fetches:")
            show_rows(report.runs)
        if report.missing:
            echo("\nMissing in the last days:")
            show_rows(report.missing)

    print_result(report, as_json, text)


def rebuild(pipeline: PipelineArgument = None, as_json: Json = False) -> None:
    """Rebuild the marts of a pipeline from all its rows. Needed after a restore, or a change of their definitions.

    Example:  homelab pipeline rebuild
    """
    from homelab.commands.pipeline_rebuild import rebuild as build

    outcome = build(settings.session(), pipeline)
    print_result(outcome, as_json, lambda: echo(outcome))


def unarchive(as_json: Json = False) -> None:
    """Move the archived months of the weather's raw rows from object storage back to PostgreSQL. The files stay.

    Example:  homelab pipeline unarchive
    """
    from homelab.commands.pipeline_unarchive import unarchive as restore

    months = restore(settings.session())
    text = f"In PostgreSQL again: {', '.join(months)}." if months else "Nothing to do: no month is archived."
    print_result(months, as_json, lambda: echo(text))


def move(
    to: Annotated[Literal["lake", "clickhouse", "file"], typer.Option(help="Destination of the history.")],
    pipeline: PipelineArgument = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Move the history of a pipeline to the lake or to ClickHouse, or back to its file. Every row is compared.

    Both directions need `target: lake` or `target: clickhouse` in the inventory. Builds wait until the move has ended;
    readers do not.

    Example:  homelab pipeline move weather --to lake
    """
    from homelab.commands.pipeline_move import SHOWN
    from homelab.commands.pipeline_move import move as run_move

    session = settings.session()
    name = session.inventory.chosen_pipeline(pipeline).name
    if not confirm(f"Move the history of {name} to {SHOWN[to]}, and replace its tables there?", yes):
        raise typer.Exit(1)
    outcome = run_move(session, name, to)
    print_result(outcome, as_json, lambda: echo(outcome))
