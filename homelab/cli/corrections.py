"""Verbs that correct the rows of a pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, PipelineArgument, PipelineOption, Yes, add_verb, settings
from homelab.cli.results import echo, print_result
from homelab.errors import InputError

if TYPE_CHECKING:
    from homelab.commands.pipeline_rows import RowPeriod
    from homelab.runtime.session import Session

TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S%z"]


def register(pipeline: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (backfill, exclude, include, exclusions):
        add_verb(pipeline, verb)


def backfill(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PIPELINE] [FILE]",
            help="The weather's file has JSON: answers of OpenWeather or of its history API. Others have CSV or JSON.",
        ),
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
    """Store history: rows of a file, or the weather from OpenWeather. Existing observations and rows stay.

    Exit code 0: everything is stored; 4: a part of it; 2: nothing. Of a pipeline of your own, all rows are stored or
    none.

    OpenWeather's history API is not part of its free plan. It is requested for one week of a city at a time, within
    the inventory's rate limit; an interrupted backfill continues. The next run of the pipeline updates the marts.

    Example:  homelab pipeline backfill --from 2019-01-01 --to 2019-02-01

    Example:  homelab pipeline backfill 2019.jsonl --city Newark,US --units metric

    Example:  homelab pipeline backfill prices 2019.csv
    """
    from homelab.commands.pipeline_backfill import backfill_file
    from homelab.pipeline_contract import EXIT
    from homelab.runtime.backfills import BackfillOptions, backfill_api

    if first and until:
        _require_period(first, until)
    name, file = _pipeline_and_file(words or [])
    session = settings.session()
    chosen = session.inventory.chosen_pipeline(name)
    if not chosen.is_weather:
        if not file or first or until or city or units or new_city:
            raise InputError(
                "Cannot combine these options: they are the weather's",
                f"The pipeline {chosen.name} takes a file, and --replace.",
                f"`homelab pipeline backfill {chosen.name} FILE`",
            )
        _backfill_rows(session, chosen.name, file, replace, yes, as_json)
        return
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
        outcome = backfill_file(session, file, options)
    elif first:
        outcome = backfill_api(session, first.date(), until.date() if until else None, options)
    print_result(outcome, as_json, lambda: echo(outcome))
    if outcome.quarantined or outcome.failed:
        raise typer.Exit(EXIT.partial)


def _require_period(first: datetime, until: datetime) -> None:
    """Raise InputError if --to is not after --from; a time without an offset is in UTC."""
    start, end = (each if each.tzinfo else each.replace(tzinfo=UTC) for each in (first, until))
    if end <= start:
        raise InputError(
            "Cannot use this period: --to is not after --from",
            f"It begins at {start.isoformat()} and ends at {end.isoformat()}, exclusive.",
            "Correct one of them.",
        )


def _pipeline_and_file(words: list[str]) -> tuple[str | None, Path | None]:
    """Return the pipeline, if it is named, and the file. Raises InputError for more than two words."""
    if len(words) > 2:
        raise InputError(
            f"Cannot backfill {words[2]}: too many arguments", "", "`homelab pipeline backfill PIPELINE FILE`"
        )
    return words[0] if len(words) == 2 else None, Path(words[-1]) if words else None


def _backfill_rows(session: Session, pipeline: str, file: Path, replace: bool, yes: bool, as_json: bool) -> None:
    from homelab.commands.pipeline_rows import backfill_rows

    if replace and not confirm("Replace the stored rows that have the same key and time?", yes):
        raise typer.Exit(1)
    outcome = backfill_rows(session, pipeline, file, replace)
    print_result(outcome, as_json, lambda: echo(outcome))


def exclude(
    first: Annotated[datetime, typer.Option("--from", formats=TIME_FORMATS, help="The first time; in UTC.")],
    until: Annotated[datetime, typer.Option("--to", formats=TIME_FORMATS, help="The end, exclusive; in UTC.")],
    reason: Annotated[str, typer.Option(help="The reason, for the list of exclusions.")],
    pipeline: PipelineArgument = None,
    city: Annotated[str | None, typer.Option(help="The weather's city.")] = None,
    all_cities: Annotated[bool, typer.Option("--all-cities", help="Instead of --city: every city.")] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(help="For a pipeline of your own: COLUMN=VALUE of the rows, for columns of its key; repeatable."),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Exclude wrong observations or rows from the marts. They stay in their table and can be included again.

    Example:  homelab pipeline exclude --city Newark,US --from 2026-11-01T03:00 --to 2026-11-01T04:00 --reason "sensor"

    Example:  homelab pipeline exclude prices --key item=gas --from 2026-01-02 --to 2026-01-03 --reason "typing error"
    """
    from homelab.commands.pipeline_exclude import Period
    from homelab.commands.pipeline_exclude import exclude as exclude_period
    from homelab.commands.pipeline_rows import RowPeriod

    if not reason.strip():
        raise InputError("Cannot exclude: --reason is empty", "", "See `homelab pipeline exclude --help`.")
    session = settings.session()
    chosen = session.inventory.chosen_pipeline(pipeline)
    if not chosen.is_weather:
        if city or all_cities or not key:
            raise InputError(
                f"Cannot exclude rows of the pipeline {chosen.name}: name --key COLUMN=VALUE",
                "Cities are the weather's.",
                "See `homelab pipeline exclude --help`.",
            )
        _require_period(first, until)
        rows = RowPeriod(key=key, first=first, until=until)
        _exclude_rows(session, chosen.name, rows, reason, yes, as_json)
        return
    if key:
        raise InputError("Cannot exclude: the weather has no --key", "", "Name --city or --all-cities.")
    if (city is None) != all_cities:
        raise InputError(
            "Cannot exclude: name either --city or --all-cities", "", "See `homelab pipeline exclude --help`."
        )
    _require_period(first, until)
    period = Period(city=city, first=first, until=until)
    outcome = exclude_period(session, period, reason, lambda question: confirm(question, yes))
    if outcome is None:
        raise typer.Exit(1)
    print_result(outcome, as_json, lambda: echo(outcome))


def _exclude_rows(session: Session, pipeline: str, period: RowPeriod, reason: str, yes: bool, as_json: bool) -> None:
    from homelab.commands.pipeline_rows import exclude_rows

    outcome = exclude_rows(session, pipeline, period, reason, lambda question: confirm(question, yes))
    if outcome is None:
        raise typer.Exit(1)
    print_result(outcome, as_json, lambda: echo(outcome))


def include(
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="The exclusions, as `exclusions` lists them.")],
    pipeline: PipelineOption = None,
    reason: Annotated[str, typer.Option(help="The reason.")] = "included again",
    as_json: Json = False,
) -> None:
    """Revoke exclusions, so that the marts include their rows again.

    Example:  homelab pipeline include 3
    """
    session = settings.session()
    chosen = session.inventory.chosen_pipeline(pipeline)
    if not chosen.is_weather:
        from homelab.commands.pipeline_rows import include_rows

        rows = include_rows(session, chosen.name, ids, reason)
        print_result(rows, as_json, lambda: echo(rows))
        return
    from homelab.commands.pipeline_exclude import include as include_again

    outcome = include_again(session, ids, reason)
    print_result(outcome, as_json, lambda: echo(outcome))


def exclusions(pipeline: PipelineArgument = None, as_json: Json = False) -> None:
    """List the exclusions, revoked ones included.

    Example:  homelab pipeline exclusions
    """
    from dataclasses import asdict

    from homelab.cli.output import show_rows
    from homelab.commands.pipeline_exclude import exclusions as list_exclusions
    from homelab.commands.pipeline_rows import row_exclusions

    session = settings.session()
    chosen = session.inventory.chosen_pipeline(pipeline)
    found = list_exclusions(session) if chosen.is_weather else row_exclusions(session, chosen.name)
    print_result(found, as_json, lambda: show_rows([asdict(each) for each in found]))
