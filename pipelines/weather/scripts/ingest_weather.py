"""Fetch the current weather of each city from OpenWeather and append it to raw.weather_observations.

Settings come from the environment: the variables of weather_contract.json, and libpq's (PGHOST, PGDATABASE, PGUSER,
PGPASSWORD, PGPASSFILE …). Each response is written to a spool on disk before it is stored, so nothing is lost when this
process is killed or PostgreSQL is unreachable; the next run stores the remaining rows. A row that finds the disk full
goes to PostgreSQL from memory.

The last line of standard output is a JSON summary, also written to last_ingest.json. Each city counts once: its
observation was stored, unchanged (stored earlier) or spooled (waits for PostgreSQL), or the city failed. An invalid
response is kept in raw.quarantine, and its city counts as failed.

With WEATHER_TO=broker, the rows go to the broker instead, and its consumer writes them to PostgreSQL: `stored` counts
the rows that are new to the broker. A run waits for the consumer at its end, for a limited time; `waiting` counts the
rows that are not in PostgreSQL then. While the broker is away or full, the rows wait in the spool.

Exit status: 0 everything is stored; 4 some of it; 1 nothing; 8 invalid settings. `--last` sends no request and reports
the last run: 0 it was complete, 1 it was not. `--check FILE` only reads a file of cities: 0 valid, 8 invalid.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from uuid import uuid4

from atomic_file import replace_text
from cities import CitiesError, read_cities
from contract import EXIT, Parser
from ingest_settings import Settings, SettingsError, read_settings
from loader import Loader, RunSummary
from openweather import City, Client, RateLimit, RetryPolicy
from raw_tables import record_settings
from sinks import PostgresSink, Sink
from spool import Spool, SpoolFull, observation_line, quarantine_line
from validation import FetchError, InvalidResponse, parse_observation

_FLUSH_INTERVAL = 5.0  # seconds
_PAUSE = 0.25  # seconds without a result, after which rows may be flushed
_LONGEST_ROUND = 600.0  # seconds
_MAX_QUEUED = 64  # requests per connection that are sent or wait to be handled


@dataclass(frozen=True, slots=True)
class Fetched:
    """The result of one city: a line for the spool, an error, or both for an invalid response."""

    city: str
    line: bytes = b""
    error: str = ""


def fetch(client: Client, settings: Settings) -> Iterator[Fetched | None]:
    """Yield the result of each city as it arrives, and None in pauses; a failed city does not stop the others."""
    results = SimpleQueue[Future[Fetched]]()
    pending = 0
    with ThreadPoolExecutor(settings.concurrency) as threads:
        for city in settings.cities:
            if pending == settings.concurrency * _MAX_QUEUED:
                yield from _next(results)
                pending -= 1
            threads.submit(_fetch_city, client, city).add_done_callback(results.put)
            pending += 1
        for _ in range(pending):
            yield from _next(results)


def _next(results: SimpleQueue[Future[Fetched]]) -> Iterator[Fetched | None]:
    """Yield the next result, and None as long as there is none."""
    while True:
        try:
            future = results.get(timeout=_PAUSE)
        except Empty:
            yield None
        else:
            yield future.result()
            return


def _fetch_city(client: Client, city: City) -> Fetched:
    try:
        text, dt = parse_observation(client.current(city), time.time())
    except InvalidResponse as error:
        return Fetched(city.name, quarantine_line(city.name, client.units, str(error), error.body), str(error))
    except FetchError as error:
        return Fetched(city.name, error=str(error))
    except (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        # An unforeseen response must not end the run for the other cities.
        return Fetched(city.name, error=f"internal error: {type(error).__name__}")
    return Fetched(city.name, observation_line(city.name, client.units, dt, text))


def retry_policy(settings: Settings) -> RetryPolicy:
    """Return the deadlines of a run."""
    return RetryPolicy(request_deadline=settings.request_deadline, run_deadline=settings.run_deadline)


def run(
    settings: Settings, sink: Sink, limit: RateLimit | None = None, flush_interval: float = _FLUSH_INTERVAL
) -> RunSummary:
    """Fetch all cities, spool the responses and store them.

    Runs with the same `limit` share it. `flush_interval` is in seconds.
    """
    started, summary, policy = time.monotonic(), RunSummary(len(settings.cities)), retry_policy(settings)
    client = Client(
        base_url=settings.base_url,
        api_key=settings.api_key,
        units=settings.units,
        policy=policy,
        until=policy.clock() + policy.run_deadline,
        concurrency=settings.concurrency,
        limit=limit or RateLimit(settings.rate_limit, policy),
    )
    requests = client.limit.granted
    spool = Spool(settings.data / "spool", settings.spool_bytes)
    loader = Loader(uuid4(), summary, spool, sink)
    for segment in spool.abandoned():
        loader.submit(segment)
    flushed = time.monotonic()
    for result in fetch(client, settings):
        if result and result.error:
            summary.fail(result.city, result.error)
        waiting = _spool_result(result, spool, loader, client, summary) if result and result.line else 0
        if loader.should_flush(waiting) or time.monotonic() > flushed + flush_interval:
            flush(spool, loader)
            flushed = time.monotonic()
    flush(spool, loader)
    summary.requests = client.limit.granted - requests
    loader.finish()
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def sink_of(settings: Settings) -> Sink:
    """Return the destination of the rows."""
    timezones = {city.name: city.timezone for city in settings.cities}
    if settings.broker is None:
        return PostgresSink(partial(record_settings, schedule=settings.schedule, timezones=timezones))
    from broker_sink import BrokerSink  # its client is imported only where it is used

    return BrokerSink(settings.broker, settings.schedule, timezones, settings.broker_wait)


def _spool_result(result: Fetched, spool: Spool, loader: Loader, client: Client, summary: RunSummary) -> int:
    """Write a result to the spool; return the number of rows that wait there.

    On a full disk, rows wait in memory while PostgreSQL works.
    """
    try:
        return spool.add(result.line, quarantined=bool(result.error), in_memory=loader.works)
    except SpoolFull as full:
        if not result.error:
            summary.fail(result.city, str(full))
        client.stopped = str(full)  # further responses could not be written either
        return 0


def flush(spool: Spool, loader: Loader) -> None:
    """Hand the spooled rows to the loader."""
    segment = spool.detach()
    if segment is not None:
        loader.submit(segment)


def ingest(environment: Mapping[str, str]) -> int:
    """Run once; return the exit status."""
    try:
        settings = read_settings(environment)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    summary = run(settings, sink_of(settings))
    if summary.failed > len(summary.errors):
        print(f"error: and {summary.failed - len(summary.errors)} more", file=sys.stderr)
    text = summary_text(summary)
    print(text)
    return summary.status if save_summary(settings.data, text) else EXIT.failed


def summary_text(summary: RunSummary) -> str:
    """Return the summary of a run that ends now, as JSON."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return json.dumps({**asdict(summary), "finished": finished}, ensure_ascii=False)


def save_summary(data: Path, text: str) -> bool:
    """Replace last_ingest.json; print the error and return False if it cannot be written."""
    try:
        _save_summary(data, text)
    except OSError as error:
        # Without it, verify_ingestion would report the run before.
        print(f"error: cannot write the summary to {data}: {error.strerror}", file=sys.stderr)
        return False
    return True


def _save_summary(data: Path, text: str) -> None:
    """Replace last_ingest.json; a lock serializes runs that end at the same time."""
    with (data / "last_ingest.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        replace_text(data / "last_ingest.json", text + "\n")


def report_last(data: Path, every: float = 0) -> int:
    """Print the summary of the last run; return success only if every city's observation is in PostgreSQL.

    `every` is the time between two rounds of a stream in seconds; without a recent round, the stream counts as stopped.
    """
    try:
        summary = json.loads((data / "last_ingest.json").read_text())
    except FileNotFoundError:
        print("error: there has been no run yet", file=sys.stderr)
        return EXIT.failed
    except (OSError, ValueError) as error:
        print(f"error: cannot read the summary of the last run: {error}", file=sys.stderr)
        return EXIT.failed
    for city, reason in summary["errors"].items():
        print(f"error: {city}: {reason}", file=sys.stderr)
    print(json.dumps({key: value for key, value in summary.items() if key != "errors"}, ensure_ascii=False))
    if summary.get("waiting"):
        print(f"error: {summary['waiting']} rows wait in the broker for its consumer", file=sys.stderr)
    age = datetime.now(UTC) - datetime.fromisoformat(summary["finished"])
    if every and age.total_seconds() > max(_LONGEST_ROUND, 3 * every):
        print(f"error: the stream does not run: its last round ended at {summary['finished']}", file=sys.stderr)
        return EXIT.failed
    incomplete = any(summary.get(name) for name in ("failed", "spooled", "waiting", "problem"))
    return EXIT.failed if incomplete else EXIT.success


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--last", action="store_true", help="send no request, report the last run")
    parser.add_argument("--check", type=Path, metavar="FILE", help="send no request, read a file of cities")
    options = parser.parse_args()
    if options.check:
        try:
            print(f"{len(read_cities(options.check))} cities")
        except CitiesError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT.bad_input
        return EXIT.success
    if options.last:
        return report_last(Path(os.environ.get("WEATHER_DATA", ".")), float(os.environ.get("WEATHER_EVERY", 0)))
    return ingest(os.environ)


if __name__ == "__main__":
    sys.exit(main())
