"""Ask OpenWeather for each city's current weather and append the answers to raw.weather_observations.

Configuration comes from the environment: see ingest_settings.py, and libpq's own variables (PGHOST, PGDATABASE, PGUSER,
PGPASSWORD, PGPASSFILE …). Every answer is first written to a spool on disk and then brought into Postgres, so that
nothing is lost when this process is killed or Postgres is away; what is left there goes in with the next run.

The last line on standard output is a JSON summary, which is kept in last_ingest.json too. Each city counts once: its
observation was stored, unchanged (it is there already), spooled (it waits for Postgres), or the city failed; an answer
that cannot go in is kept in raw.quarantine, and its city has failed.

Exit status: 0 all is in Postgres; 4 some of it is, and something failed; 1 none of it is; 2 bad configuration.
`--last` asks nobody, and says how the last run went: 0 well, 1 not. `--check FILE` reads a file of cities, 0 or 2.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from uuid import uuid4

from answers import FetchError, Rejected, checked
from cities import CitiesError, of_file
from delivery import NONE, Postgres, Summary
from ingest_settings import Configuration, ConfigurationError, configuration
from openweather import City, Client, Limit, Patience
from spool import Spool, SpoolFull, bad, good

BAD_CONFIGURATION = 2
_LINGER = 5.0  # seconds that rows wait for more
_AHEAD = 64  # requests that may be under way or answered for each one at work


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one city gave: its line for the spool, or why there is none; both for an answer that cannot go in."""

    city: str
    line: bytes = b""
    error: str = ""


def fetch(client: Client, wanted: Configuration) -> Iterator[Fetched]:
    """What each city gives, as the answers come; one that fails does not stop the others."""
    answered = SimpleQueue[Future[Fetched]]()
    under_way = 0
    with ThreadPoolExecutor(wanted.at_once) as threads:
        for city in wanted.cities:
            if under_way == wanted.at_once * _AHEAD:
                yield answered.get().result()
                under_way -= 1
            threads.submit(_one, client, city).add_done_callback(answered.put)
            under_way += 1
        for _ in range(under_way):
            yield answered.get().result()


def _one(client: Client, city: City) -> Fetched:
    try:
        text, dt = checked(client.current(city), time.time())
    except Rejected as rejected:
        return Fetched(city.name, bad(city.name, client.units, str(rejected), rejected.body), str(rejected))
    except FetchError as error:
        return Fetched(city.name, error=str(error))
    return Fetched(city.name, good(city.name, client.units, dt, text))


def run(wanted: Configuration) -> Summary:
    """Ask, spool, and bring in what is spooled."""
    started, summary = time.monotonic(), Summary(len(wanted.cities))
    patience = Patience(request=wanted.request, run=wanted.deadline)
    client = Client(
        base_url=wanted.base_url,
        api_key=wanted.api_key,
        units=wanted.units,
        patience=patience,
        until=patience.clock() + patience.run,
        at_once=wanted.at_once,
        limit=Limit(wanted.rate_limit, patience),
    )
    spool = Spool(wanted.data / "spool", wanted.spool_bytes)
    postgres = Postgres(uuid4(), summary, spool)
    for segment in spool.left_behind():
        postgres.send(segment)
    sent = time.monotonic()
    for answer in fetch(client, wanted):
        if answer.error:
            summary.fail(answer.city, answer.error)
        waiting = _spooled(answer, spool, client, summary) if answer.line else 0
        if postgres.takes(waiting) or time.monotonic() > sent + _LINGER:
            send(spool, postgres)
            sent = time.monotonic()
    send(spool, postgres)
    summary.requests = client.limit.granted
    postgres.finish()
    summary.seconds = round(time.monotonic() - started, 3)
    return summary


def _spooled(answer: Fetched, spool: Spool, client: Client, summary: Summary) -> int:
    """Write an answer down; returns how many rows wait with it."""
    try:
        return spool.add(answer.line, good=not answer.error)
    except SpoolFull as full:
        if not answer.error:
            summary.fail(answer.city, str(full))
        client.refused = str(full)  # nothing more is asked for that there is no place for
        return 0


def send(spool: Spool, postgres: Postgres) -> None:
    """What is spooled so far goes on its way."""
    segment = spool.take()
    if segment is not None:
        postgres.send(segment)


def ingest(environment: Mapping[str, str]) -> int:
    """One run; returns the exit status."""
    try:
        wanted = configuration(environment)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    summary = run(wanted)
    if summary.failed > len(summary.errors):
        print(f"error: and {summary.failed - len(summary.errors)} more", file=sys.stderr)
    text = json.dumps(
        {**asdict(summary), "finished": datetime.now(UTC).isoformat(timespec="seconds")}, ensure_ascii=False
    )
    remember(wanted.data, text)
    print(text)
    return summary.status


def remember(data: Path, text: str) -> None:
    """Keep a run's summary; runs that end at the same time take turns."""
    new = data / "last_ingest.new"
    with (data / "last_ingest.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new.write_text(text + "\n")
        os.replace(new, data / "last_ingest.json")


def last(data: Path) -> int:
    """Say how the last run went; 0 if every city's observation is in Postgres."""
    try:
        said = json.loads((data / "last_ingest.json").read_text())
    except FileNotFoundError:
        print("error: nothing has been asked for yet", file=sys.stderr)
        return NONE
    for city, why in said["errors"].items():
        print(f"error: {city}: {why}", file=sys.stderr)
    print(json.dumps({key: value for key, value in said.items() if key != "errors"}, ensure_ascii=False))
    return NONE if said["failed"] or said["spooled"] or said["problem"] else 0


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--last", action="store_true", help="ask nobody, say how the last run went")
    parser.add_argument("--check", type=Path, metavar="FILE", help="ask nobody, read a file of cities")
    options = parser.parse_args()
    if options.check:
        try:
            print(f"{len(of_file(options.check))} cities")
        except CitiesError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_CONFIGURATION
        return 0
    return last(Path(os.environ.get("WEATHER_DATA", "."))) if options.last else ingest(os.environ)


if __name__ == "__main__":
    sys.exit(main())
