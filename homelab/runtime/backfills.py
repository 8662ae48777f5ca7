"""Backfills of the weather on the container of the ingestion: the options, the outcome, and OpenWeather's history."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.host import CommandFailed, Host, Result, expected_format
from homelab.model.stages import INGESTION
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import Layout
from homelab.progress import Progress
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.job_progress import run_with_progress
from homelab.runtime.session import Session

DEADLINE = 4 * 3600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class BackfillOptions:
    """The options of both forms: cities (a file takes one at most), units, and the handling of existing data."""

    cities: Sequence[str] = ()
    units: str | None = None
    new_city: bool = False
    replace: bool = False

    def words(self) -> list[str]:
        """Return the options of the scripts."""
        return [
            *(word for city in self.cities for word in ("--city", city)),
            *(["--units", self.units] if self.units else []),
            *(["--new-city"] if self.new_city else []),
            *(["--replace"] if self.replace else []),
        ]


@dataclass(frozen=True)
class Backfilled:
    """The observations that were stored, already present, and quarantined with the reasons.

    `units` has the number of observations by their units, `assumed_units` the units of records that name none, if the
    inventory decided them. From OpenWeather's history also: the number of requests, the weeks of a city that were
    already complete, and the cities that failed.
    """

    stored: int
    unchanged: int
    quarantined: int
    reasons: dict[str, int]
    requests: int = 0
    complete_weeks: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    replaced: int = 0
    units: dict[str, int] = field(default_factory=dict)
    assumed_units: str | None = None

    def __str__(self) -> str:
        text = f"{self.stored} observations stored, {self.unchanged} were already present"
        if self.replaced:
            text += f", {self.replaced} replaced"
        if self.complete_weeks:
            text += f", {self.complete_weeks} complete weeks skipped"
        text += "".join(f"\n  {city}: {reason}" for city, reason in self.failed.items())
        if self.quarantined:
            reasons = "".join(f"\n  {count} times: {reason}" for reason, count in self.reasons.items())
            text += f", {self.quarantined} invalid ones kept in raw.quarantine:{reasons}"
        if self.units:
            text += f"\nUnits: {', '.join(f'{units} ({count})' for units, count in self.units.items())}"
        if self.assumed_units:
            text += f"; records without units count as {self.assumed_units}, the inventory's"
        return f"{text}\nThe next run adds them to the marts: `homelab pipeline run`"


def backfill_api(session: Session, first: date, until: date | None, options: BackfillOptions) -> Backfilled:
    """Store OpenWeather's history from `first` to before `until` (default: today), of all cities or of the named ones.

    Raises InputError for days that are not a period in the past, HomelabError if the key's plan has no history.
    """
    layout = weather_layout(session.inventory)
    with session.connect_to_stage(INGESTION) as host:
        return backfill_api_on(host, layout, first, until, options, session.progress)


def backfill_api_on(
    host: Host, layout: Layout, first: date, until: date | None, options: BackfillOptions, progress: Progress
) -> Backfilled:
    """As `backfill_api`, on the container itself."""
    words = ["--from", str(first), *(["--to", str(until)] if until else []), *options.words()]
    command = layout.run(weather_words(layout, "backfill_api.py", *words))
    read_progress = f"{layout.read_data('history.progress')} || true"
    action = f"store the history since {first}"
    with progress.step(host.name, action) as report:
        job = partial(host.run, command, timeout=DEADLINE)
        result = run_with_progress(job, lambda: host.run(read_progress).text, report)
    if result.status == EXIT.bad_input:
        raise InputError(
            "Cannot request the history",
            error_text(result),
            "Name days as in --from 2019-01-01 --to 2019-02-01. If it is about the pipeline's settings, run `homelab "
            "deploy`.",
        )
    if result.status == EXIT.key_refused:
        raise HomelabError(
            "Cannot request the history: OpenWeather refuses the key",
            error_text(result),
            "The free plan has no history: see https://openweathermap.org/price, or store a file: `homelab pipeline "
            "backfill FILE`",
        )
    if result.status == EXIT.busy:
        raise HomelabError(
            "Cannot start a backfill: another one is running",
            f"An earlier one continues in {host.name}.",
            "Wait for its end; its observations are not requested again.",
        )
    return backfill_outcome(host.name, result, action)


def backfill_outcome(container: str, result: Result, action: str) -> Backfilled:
    """Return the summary that a script of a backfill has printed. Raises HomelabError if the script failed."""
    if result.status not in (EXIT.success, EXIT.partial):
        raise CommandFailed(container, result, action)
    with expected_format(container, "read the outcome of the backfill"):
        return Backfilled(**json.loads(result.text.splitlines()[-1]))


def error_text(result: Result) -> str:
    """Return the error of a script of a backfill."""
    return result.stderr.decode(errors="replace").strip().removeprefix("error: ")[:1500]
