"""Bring the past in from OpenWeather's history API, hour by hour, where the key's plan has it.

    history_weather.py --from 2019-01-01 [--to 2019-02-01] [--city NAME]… [--units UNITS]

Days are those of UTC; `--to` is no part of it, and today if left out. It takes the ingestion's environment
(ingest_settings.py) and keeps to its rate limit. The cities are the pipeline's, or those that are named. It asks for a
week of one city at a time; a week that is stored whole is not asked for again, so a run that was cut off goes on where
it stopped. How far it is stands in history.progress, in WEATHER_DATA.

The last line on standard output is a JSON summary. Exit status: 0 all is stored; 4 something failed, or cannot go in
(then it is in raw.quarantine); 1 Postgres cannot be reached; 2 the options cannot be used; 3 OpenWeather refuses the
key for its history; 5 another one is at work.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from answers import FetchError
from backfill_weather import SOME, UNITS, Naming
from ingest_settings import Configuration, ConfigurationError, configuration
from openweather import City, Client, Limit, Patience
from rawtables import Batch, Connection, Outcome, began, connect, ended, store
from spool import bad

NO_POSTGRES, BAD_OPTIONS, REFUSED, BUSY = 1, 2, 3, 5
_HOUR, _WEEK = 3600, 7 * 86400  # seconds; OpenWeather gives a week at a time
_RUN = 4 * _HOUR - 300  # seconds
_CURRENT, _PAST = "://api.openweathermap.org", "://history.openweathermap.org"


@dataclass(frozen=True, slots=True)
class Week:
    """What one request asks for: a city, from `start` to before `end`, in seconds since 1970."""

    city: City
    start: int
    end: int


@dataclass(slots=True)
class Told:
    """What has come of it so far; `whole` weeks were stored already, and `failed` says why by city."""

    outcome: Outcome = field(default_factory=Outcome)
    reasons: Counter[str] = field(default_factory=Counter)
    whole: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def weeks(cities: Sequence[City], start: int, end: int) -> Iterator[Week]:
    """All that is to be asked for, city by city."""
    for city in cities:
        for first in range(start, end, _WEEK):
            yield Week(city, first, min(first + _WEEK, end))


def is_whole(connection: Connection, week: Week) -> bool:
    """Whether each hour of it is stored. Raises psycopg.Error."""
    hours = [str(hour) for hour in range(week.start, week.end, _HOUR)]
    found = connection.execute(
        "select count(distinct data ->> 'dt') from raw.weather_observations "
        "where city = %s and (data ->> 'dt') collate \"C\" = any(%s)",
        (week.city.name, hours),
    ).fetchone()
    return found == (len(hours),)


def lines(week: Week, body: bytes, units: str) -> Iterator[tuple[bytes, str]]:
    """Each hour's line for Postgres, and why it cannot go in, or nothing."""
    try:
        hours = json.loads(body)["list"]
    except (ValueError, KeyError, TypeError, RecursionError):
        hours = None
    if not isinstance(hours, list):
        why = "the history's answer has no list of hours"
        yield bad(week.city.name, units, why, body), why
        return
    naming = Naming(week.city.name, units)
    for hour in hours:
        yield naming.line({"data": hour})


def bring_in(connection: Connection, client: Client, wanted: Sequence[Week], at_once: int, progress: Path) -> Told:
    """Ask for what is not there and store it, some weeks at a time. Raises psycopg.Error."""
    told, left, done = Told(), iter(wanted), 0
    with ThreadPoolExecutor(at_once) as threads:
        while batch := list(islice(left, at_once)):
            missing = [week for week in batch if week.city.name not in told.failed and not is_whole(connection, week)]
            told.whole += sum(week.city.name not in told.failed for week in batch) - len(missing)
            for week, (body, why) in zip(missing, threads.map(lambda each: _ask(client, each), missing), strict=True):
                if why:
                    told.failed.setdefault(week.city.name, why)
                    continue
                rows = list(lines(week, body, client.units))
                told.reasons.update(reason for _, reason in rows if reason)
                told.outcome += store(connection, Batch.of([row for row, _ in rows]))
            done += len(batch)
            progress.write_text(f"{done} of {len(wanted)} weeks, {told.outcome.new} observations\n")
            if client.refused:
                break
    return told


def _ask(client: Client, week: Week) -> tuple[bytes, str]:
    try:
        return client.history(week.city, week.start, week.end - 1), ""
    except FetchError as error:
        return b"", str(error)


def chosen(cities: Sequence[City], names: Sequence[str]) -> Sequence[City]:
    """The cities with these names: as the pipeline asks for them, else by the name; all of them without names."""
    known = {city.name: city for city in cities}
    return [known.get(name, City(name=name)) for name in dict.fromkeys(names)] or cities


def run(wanted: Configuration, options: argparse.Namespace, start: int, end: int) -> tuple[int, dict[str, Any]]:
    """Bring it in; returns the exit status and the summary. Raises psycopg.Error."""
    patience = Patience(request=wanted.request * 3, run=_RUN)
    limit = Limit(wanted.rate_limit, patience)
    client = Client(
        base_url=wanted.base_url.replace(_CURRENT, _PAST),
        api_key=wanted.api_key,
        patience=patience,
        units=options.units or wanted.units,
        until=patience.clock() + patience.run,
        at_once=wanted.at_once,
        limit=limit,
    )
    asked = list(weeks(chosen(wanted.cities, options.city), start, end))
    with connect() as connection:
        identity = uuid4()
        began(connection, identity, datetime.now(UTC))
        told = bring_in(connection, client, asked, wanted.at_once, wanted.data / "history.progress")
        outcome = told.outcome
        ended(
            connection,
            identity,
            {
                "asked": outcome.new + outcome.known + outcome.quarantined,
                "stored": outcome.new,
                "unchanged": outcome.known,
                "failed": outcome.quarantined,
                "quarantined": outcome.quarantined,
                "spooled": 0,
                "recovered": 0,
                "requests": limit.granted,
            },
            next(iter(told.failed.values()), None),
        )
    status = REFUSED if client.refused else SOME if told.failed or outcome.quarantined else 0
    reasons = told.reasons + Counter(why for _, why in outcome.refused)
    return status, {
        "stored": outcome.new,
        "unchanged": outcome.known,
        "quarantined": outcome.quarantined,
        "reasons": dict(reasons.most_common(10)),
        "requests": limit.granted,
        "whole": told.whole,
        "failed": dict(islice(told.failed.items(), 100)),
    }


def _seconds(day: str) -> int:
    return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp())


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="start", required=True, type=_seconds, metavar="DAY")
    parser.add_argument("--to", dest="end", type=_seconds, metavar="DAY")
    parser.add_argument("--city", action="append", default=[])
    parser.add_argument("--units", choices=UNITS)
    options = parser.parse_args()
    now = int(time.time()) // _HOUR * _HOUR
    end = min(options.end or now // 86400 * 86400, now)
    try:
        wanted = configuration(environment)
        if not 0 <= options.start < end:
            raise ConfigurationError("the days are no span of time in the past")
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_OPTIONS
    with (wanted.data / "history.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another one is at work", file=sys.stderr)
            return BUSY
        try:
            status, said = run(wanted, options, options.start, end)
        except psycopg.Error as error:
            print(f"error: Postgres: {' '.join(str(error).split())}", file=sys.stderr)
            return NO_POSTGRES
        finally:
            (wanted.data / "history.progress").unlink(missing_ok=True)
    for city, why in said["failed"].items():
        print(f"error: {city}: {why}", file=sys.stderr)
    print(json.dumps(said, ensure_ascii=False))
    return status


if __name__ == "__main__":
    sys.exit(main())
