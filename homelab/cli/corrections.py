"""Verbs that correct the weather pipeline's observations."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from homelab.cli.confirmation import confirm
from homelab.cli.global_options import Json, Yes, add_verb, settings
from homelab.cli.results import echo, print_result
from homelab.errors import InputError

_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M%z", "%Y-%m-%dT%H:%M:%S%z"]


def register(pipeline: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (exclude, include, exclusions):
        add_verb(pipeline, verb)


def exclude(
    first: Annotated[datetime, typer.Option("--from", formats=_FORMATS, help="The first observation time; in UTC.")],
    until: Annotated[datetime, typer.Option("--to", formats=_FORMATS, help="The end, exclusive; in UTC.")],
    reason: Annotated[str, typer.Option(help="The reason, for the list of exclusions.")],
    city: Annotated[str | None, typer.Option(help="The city of the observations.")] = None,
    all_cities: Annotated[bool, typer.Option("--all-cities", help="Instead of --city: every city.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Exclude wrong observations from the marts. They stay in the raw table and can be included again.

    Example:  homelab pipeline exclude --city Newark,US --from 2026-11-01T03:00 --to 2026-11-01T04:00 --reason "sensor"
    """
    from homelab.commands.pipeline_exclude import Period
    from homelab.commands.pipeline_exclude import exclude as exclude_period

    if (city is None) != all_cities:
        raise InputError(
            "Cannot exclude: name either --city or --all-cities", "", "See `homelab pipeline exclude --help`."
        )
    if not reason.strip():
        raise InputError("Cannot exclude: --reason is empty", "", "See `homelab pipeline exclude --help`.")
    period = Period(city=city, first=first, until=until)
    outcome = exclude_period(settings.session(), period, reason, lambda question: confirm(question, yes))
    if outcome is None:
        raise typer.Exit(1)
    print_result(outcome, as_json, lambda: echo(outcome))


def include(
    ids: Annotated[list[int], typer.Argument(metavar="ID", help="The exclusions, as `exclusions` lists them.")],
    reason: Annotated[str, typer.Option(help="The reason.")] = "included again",
    as_json: Json = False,
) -> None:
    """Revoke exclusions, so that the marts include their observations again.

    Example:  homelab pipeline include 3
    """
    from homelab.commands.pipeline_exclude import include as include_again

    outcome = include_again(settings.session(), ids, reason)
    print_result(outcome, as_json, lambda: echo(outcome))


def exclusions(as_json: Json = False) -> None:
    """List the exclusions, revoked ones included.

    Example:  homelab pipeline exclusions
    """
    from dataclasses import asdict

    from homelab.cli.output import show_rows
    from homelab.commands.pipeline_exclude import exclusions as list_exclusions

    found = list_exclusions(settings.session())
    print_result(found, as_json, lambda: show_rows([asdict(each) for each in found]))
