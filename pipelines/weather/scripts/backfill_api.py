"""Store past observations from OpenWeather's history API, hour by hour; the key's plan must include it.

    backfill_api.py --from 2019-01-01 [--to 2019-02-01] [--city NAME]… [--new-city] [--units UNITS] [--replace]

Days are in UTC; `--to` is exclusive and defaults to today. It uses the ingestion's settings (see ingest_settings.py),
its rate limit and its cities, or the named ones. One request covers a week of one city; complete weeks are skipped, so
an interrupted run continues where it stopped. With `--replace`, all weeks are requested, and observations that differ
from the stored ones replace them. The file history.progress in WEATHER_DATA shows the progress.

The last line of standard output is a JSON summary. Exit status: 0 everything is stored; 4 a request failed or a
response is invalid (raw.quarantine has it); 1 PostgreSQL cannot be reached; 8 nothing is stored, or invalid options or
settings; 5 another backfill is running; 6 OpenWeather refuses the key.
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
from backfill_file import require_city
from backfill_records import FileError, RecordParser
from contract import EXIT, Parser
from ingest_settings import UNITS, Settings, SettingsError, read_settings
from openweather import City, Client, RateLimit, RetryPolicy
from raw_tables import Batch, Connection, StoreResult, connect, record_end, record_start, store
from spool import quarantine_line
from validation import FetchError

_HOUR, _WEEK = 3600, 7 * 86400  # seconds; OpenWeather returns at most a week
_RUN_DEADLINE = 4 * _HOUR - 300  # seconds; homelab waits four hours
_CURRENT_HOST, _HISTORY_HOST = "://api.openweathermap.org", "://history.openweathermap.org"


@dataclass(frozen=True, slots=True)
class Week:
    """The range of one request: a city, from `start` to before `end`, in Unix seconds."""

    city: City
    start: int
    end: int


@dataclass(slots=True)
class BackfillResult:
    """The result so far; `complete_weeks` were stored before, `failed` has the reason by city."""

    stored: StoreResult = field(default_factory=StoreResult)
    reasons: Counter[str] = field(default_factory=Counter)
    complete_weeks: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def split_weeks(cities: Sequence[City], start: int, end: int) -> Iterator[Week]:
    """Yield the weeks of each city."""
    for city in cities:
        for first in range(start, end, _WEEK):
            yield Week(city, first, min(first + _WEEK, end))


def is_complete(connection: Connection, week: Week) -> bool:
    """Return True if each hour of the week is stored. Raises psycopg.Error."""
    hours = [str(hour) for hour in range(week.start, week.end, _HOUR)]
    found = connection.execute(
        "select count(distinct data ->> 'dt') from raw.weather_observations "
        "where city = %s and (data ->> 'dt') collate \"C\" = any(%s)",
        (week.city.name, hours),
    ).fetchone()
    return found == (len(hours),)


def parse_week(week: Week, body: bytes, units: str) -> Iterator[tuple[bytes, str]]:
    """Yield each hour's line for PostgreSQL, and the reason if it is invalid."""
    try:
        hours = json.loads(body)["list"]
    except (ValueError, KeyError, TypeError, RecursionError):
        hours = None
    if not isinstance(hours, list):
        reason = "the history's response has no list of hours"
        yield quarantine_line(week.city.name, units, reason, body), reason
        return
    parser = RecordParser(week.city.name, units, units_are_certain=True)
    for hour in hours:
        record = parser.parse({"data": hour})
        yield record.line, record.reason


def backfill(
    connection: Connection, client: Client, weeks: Sequence[Week], progress: Path, replace: bool = False
) -> BackfillResult:
    """Fetch and store the incomplete weeks, or all, in batches of parallel requests. Raises psycopg.Error."""
    result, remaining, done = BackfillResult(), iter(weeks), 0
    with ThreadPoolExecutor(client.concurrency) as threads:
        while batch := list(islice(remaining, client.concurrency)):
            done += len(batch)
            batch = [week for week in batch if week.city.name not in result.failed]
            missing = [week for week in batch if replace or not is_complete(connection, week)]
            result.complete_weeks += len(batch) - len(missing)
            responses = threads.map(lambda each: _fetch_week(client, each), missing)
            for week, (body, error) in zip(missing, responses, strict=True):
                if error:
                    result.failed.setdefault(week.city.name, error)
                    continue
                rows = list(parse_week(week, body, client.units))
                result.reasons.update(reason for _, reason in rows if reason)
                lines = [line for line, _ in rows]
                result.stored += store(connection, Batch.of(lines, latest=replace), replace=replace)
            progress.write_text(f"{done} of {len(weeks)} weeks, {result.stored.stored} observations\n")
            if client.stopped:
                break
    return result


def _fetch_week(client: Client, week: Week) -> tuple[bytes, str]:
    try:
        return client.history(week.city, week.start, week.end - 1), ""
    except FetchError as error:
        return b"", str(error)


def select_cities(cities: Sequence[City], names: Sequence[str]) -> Sequence[City]:
    """Return the cities with these names, configured or not; all configured ones without names."""
    known = {city.name: city for city in cities}
    return [known.get(name, City(name=name)) for name in dict.fromkeys(names)] or cities


def run(settings: Settings, options: argparse.Namespace, start: int, end: int) -> tuple[int, dict[str, Any]]:
    """Run the backfill; return the exit status and the summary. Raises psycopg.Error."""
    policy = RetryPolicy(request_deadline=settings.request_deadline * 3, run_deadline=_RUN_DEADLINE)
    limit = RateLimit(settings.rate_limit, policy)
    client = Client(
        base_url=settings.base_url.replace(_CURRENT_HOST, _HISTORY_HOST),
        api_key=settings.api_key,
        policy=policy,
        units=options.units or settings.units,
        until=policy.clock() + policy.run_deadline,
        concurrency=settings.concurrency,
        limit=limit,
    )
    weeks = list(split_weeks(select_cities(settings.cities, options.city), start, end))
    with connect() as connection:
        if not options.new_city:
            require_city(connection, options.city, {city.name for city in settings.cities})
        identity = uuid4()
        record_start(connection, identity, datetime.now(UTC))
        result = backfill(connection, client, weeks, settings.data / "history.progress", options.replace)
        stored = result.stored
        record_end(connection, identity, stored.counters(limit.granted), next(iter(result.failed.values()), None))
    if client.stopped:
        status = EXIT.key_refused
    elif result.failed or stored.quarantined:
        kept = stored.stored + stored.unchanged + stored.replaced + result.complete_weeks
        status = EXIT.partial if kept else EXIT.bad_input
    else:
        status = EXIT.success
    reasons = result.reasons + Counter(reason for _, reason in stored.refused)
    return status, {
        "stored": stored.stored,
        "unchanged": stored.unchanged,
        "replaced": stored.replaced,
        "quarantined": stored.quarantined,
        "reasons": dict(reasons.most_common(10)),
        "requests": limit.granted,
        "complete_weeks": result.complete_weeks,
        "failed": dict(islice(result.failed.items(), 100)),
        "units": {client.units: stored.stored + stored.unchanged + stored.replaced},
    }


def _seconds(day: str) -> int:
    return int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp())


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Parse the options and run; see the module's docstring."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--from", dest="start", required=True, type=_seconds, metavar="DAY")
    parser.add_argument("--to", dest="end", type=_seconds, metavar="DAY")
    parser.add_argument("--city", action="append", default=[])
    parser.add_argument("--new-city", action="store_true", help="accept cities that are not known yet")
    parser.add_argument("--units", choices=UNITS)
    parser.add_argument("--replace", action="store_true", help="replace stored observations that differ")
    options = parser.parse_args()
    now = int(time.time()) // _HOUR * _HOUR
    end = min(options.end or now // 86400 * 86400, now)
    try:
        settings = read_settings(environment)
        if not 0 <= options.start < end:
            raise SettingsError("--from must be before --to, and in the past")
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    with (settings.data / "history.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: another backfill is running", file=sys.stderr)
            return EXIT.busy
        try:
            status, summary = run(settings, options, options.start, end)
        except FileError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT.bad_input
        except psycopg.Error as error:
            print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
            return EXIT.failed
        finally:
            (settings.data / "history.progress").unlink(missing_ok=True)
    for city, reason in summary["failed"].items():
        print(f"error: {city}: {reason}", file=sys.stderr)
    print(json.dumps(summary, ensure_ascii=False))
    return status


if __name__ == "__main__":
    sys.exit(main())
