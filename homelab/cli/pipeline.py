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

from homelab.cli import corrections, pipeline_folders
from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, PipelineArgument, PipelineOption, Yes, add_verb, settings
from homelab.cli.results import echo, print_json, print_result
from homelab.errors import InputError

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
    for verb in (run, status, backfill, rebuild):
        add_verb(pipeline, verb)
    corrections.register(pipeline)
    app.add_typer(pipeline, name="pipeline")


def query(
    sql: Annotated[str | None, typer.Argument(help="One SQL statement for DuckDB; default: a shell.")] = None,
    pipeline: PipelineOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON; binary values as base64.")] = False,
) -> None:
    """Query the published marts of a pipeline. A query never waits for a build and never sees half of one.

    Without SQL, opens a shell: statements end with a semicolon, .help lists its commands. Piped statements run one by
    one.

    Example:  homelab query "select * from weather_daily order by observation_date desc limit 10"
    """
    from homelab.commands.query import query as run_query

    session = settings.session()
    if sql is None:
        run_shell(lambda statement: run_query(session, statement, pipeline), as_json)
        return
    show_result(run_query(session, sql, pipeline), as_json)


def show_result(rows: Rows, as_json: bool) -> None:
    """Print a statement's rows."""
    from homelab.cli.output import show_rows

    print_result(rows, as_json, lambda: show_rows(rows))


def run_shell(run: Callable[[str], Rows], as_json: bool) -> None:
    """Run statements from the terminal or from standard input. Raises HomelabError at an error in piped ones."""
    from homelab.cli.output import show_rows
    from homelab.runtime.sql_shell import SqlShell, history_file

    shell = SqlShell(run, print_json if as_json else show_rows, echo)
    if sys.stdin.isatty():
        shell.interact(history_file())
    else:
        shell.run_all(sys.stdin)


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
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("warehouse.html"),
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Fetch the warehouse's documentation as one HTML page: tables, columns, tests, lineage.

    Example:  homelab docs --output /tmp/warehouse.html --no-open
    """
    from homelab.commands.docs import fetch

    page = fetch(settings.session())
    output.write_bytes(page)
    echo(f"{output}: {len(page) // 1024} KiB")
    if show and sys.stdout.isatty():
        typer.launch(str(output.resolve()))


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


def backfill(
    file: Annotated[
        Path | None, typer.Argument(help="JSON or JSON lines: answers of OpenWeather or of its history API.")
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="Instead of FILE: request OpenWeather's history from this day (UTC)."
        ),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="… up to this day, exclusive; default: today.")
    ] = None,
    city: Annotated[
        list[str] | None,
        typer.Option(
            help="The city of the observations, if FILE does not name it; with --from, only this city; repeatable."
        ),
    ] = None,
    units: Annotated[
        Literal["standard", "metric", "imperial"] | None, typer.Option(help="Their units; default: the inventory's.")
    ] = None,
    new_city: Annotated[bool, typer.Option("--new-city", help="Accept a --city that is not known yet.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace stored observations that differ. Their earlier revisions stay.")
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Store history in the raw observations, from a file or from OpenWeather. Existing observations stay.

    Exit code 0: everything is stored; 4: a part of it; 2: nothing.

    OpenWeather's history API is not part of its free plan. It is requested for one week of a city at a time, within
    the inventory's rate limit; an interrupted backfill continues. The next run of the pipeline updates the marts.

    Example:  homelab pipeline backfill --from 2019-01-01 --to 2019-02-01

    Example:  homelab pipeline backfill 2019.jsonl --city Newark,US --units metric
    """
    from homelab.commands.pipeline_backfill import BackfillOptions, backfill_api, backfill_file
    from homelab.pipeline_contract import EXIT

    options = BackfillOptions(cities=city or [], units=units, new_city=new_city, replace=replace)
    from_file = file and not first and not until and len(options.cities) <= 1
    if not from_file and (file or not first):
        raise InputError(
            "Cannot combine these options: FILE and --from exclude each other",
            "FILE takes at most one --city; --to needs --from.",
            "`homelab pipeline backfill FILE`, or `homelab pipeline backfill --from DAY`",
        )
    if replace and not confirm("Replace the stored observations that differ?", yes):
        raise typer.Exit(1)
    if file:
        outcome = backfill_file(settings.session(), file, options)
    elif first:
        outcome = backfill_api(settings.session(), first.date(), until.date() if until else None, options)
    print_result(outcome, as_json, lambda: echo(outcome))
    if outcome.quarantined or outcome.failed:
        raise typer.Exit(EXIT.partial)


def rebuild(pipeline: PipelineArgument = None, as_json: Json = False) -> None:
    """Rebuild the marts of a pipeline from all its rows. Needed after a restore, or a change of their definitions.

    Example:  homelab pipeline rebuild
    """
    from homelab.commands.pipeline_rebuild import rebuild as build

    outcome = build(settings.session(), pipeline)
    print_result(outcome, as_json, lambda: echo(outcome))
