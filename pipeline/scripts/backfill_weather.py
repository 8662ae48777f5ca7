"""Bring history from a file of JSON or JSON lines into raw.weather_observations, by the ingestion's own way.

    backfill_weather.py [--city NAME] [--units UNITS] [FILE]      standard input, if no FILE is named

An observation is an answer of OpenWeather's "current weather" as it came; or an object with `data` (the answer), `city`
and `units`, as an export of the raw table has it; or an answer of the history API, whose `list` holds many. The city is
the one that is named by the option, by the record's own `city`, or by OpenWeather's id as WEATHER_CITIES knows it; else
it is made of the answer's name and country. It may be run again at any time: what is stored already stays as it is.

The last line on standard output is a JSON summary. Exit status: 0 all is stored, 4 some observations cannot go in (they
are in raw.quarantine, with the reason), 1 Postgres cannot be reached, 2 the file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import psycopg
from answers import Rejected, checked
from rawtables import Batch, Outcome, began, connect, ended, store
from spool import bad, good

SOME, NONE, BAD_FILE = 4, 1, 2
UNITS = ("standard", "metric", "imperial")
_BATCH = 5_000  # rows that go to Postgres at once


class FileError(Exception):
    """The file is not what was promised."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How a record's city and units are found, where it does not say them."""

    city: str | None
    units: str
    known: dict[int, str] = field(default_factory=dict)

    def line(self, record: object) -> tuple[bytes, str]:
        """A record's line for Postgres, and why it cannot go in, or nothing."""
        record = record if isinstance(record, dict) else {"data": record}
        data = record.get("data", record)
        city, units = self._city(record, data), record.get("units") or self.units
        body = json.dumps(data, ensure_ascii=False).encode()
        try:
            if not city:
                raise Rejected("the observation does not say its city", body)
            if units not in UNITS:
                raise Rejected(f"the units cannot be {str(units)[:40]!r}", body)
            text, dt = checked(body, time.time())
        except Rejected as rejected:
            return bad(city or "unknown", str(units), str(rejected), body), str(rejected)
        return good(city, units, dt, text), ""

    def _city(self, record: dict[str, Any], data: object) -> str:
        said = self.city or record.get("city")
        if isinstance(said, str):
            return said
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return ""
        sky = data.get("sys")
        country = sky.get("country") if isinstance(sky, dict) else None
        return self.known.get(data.get("id", -1)) or (f"{data['name']},{country}" if country else data["name"])


def records(file: IO[bytes]) -> Iterator[object]:
    """The observations of a file. Raises FileError."""
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    try:
        yield from _many(json.loads(first))
    except ValueError:
        # No line of its own: one document that goes on.
        try:
            yield from _many(json.loads(first + file.read()))
        except ValueError as error:
            raise FileError(f"it is neither JSON nor JSON lines: {error}") from None
        return
    for number, line in enumerate(file, start=2):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise FileError(f"line {number} is not JSON: {error}") from None
            yield from _many(found)


def _many(found: object) -> Iterator[object]:
    """One observation, a list of them, or an answer of the history API."""
    if isinstance(found, list):
        yield from found
    elif isinstance(found, dict) and isinstance(found.get("list"), list):
        yield from ({"city": found.get("city"), "data": data} for data in found["list"])
    else:
        yield found


def bring_in(file: IO[bytes], naming: Naming) -> tuple[Outcome, Counter[str]]:
    """Store a file's observations; returns what came of them. Raises FileError and psycopg.Error."""
    run, outcome, reasons, lines = uuid4(), Outcome(), Counter[str](), list[bytes]()
    with connect() as connection:
        began(connection, run, datetime.now(UTC))
        problem: FileError | None = None
        try:
            for record in records(file):
                line, reason = naming.line(record)
                reasons.update([reason] if reason else [])
                lines.append(line)
                if len(lines) == _BATCH:
                    outcome += store(connection, Batch.of(lines))
                    lines = []
        except FileError as error:
            problem = error
        outcome += store(connection, Batch.of(lines))
        asked = outcome.new + outcome.known + outcome.quarantined
        ended(
            connection,
            run,
            {
                "asked": asked,
                "stored": outcome.new,
                "unchanged": outcome.known,
                "failed": outcome.quarantined,
                "quarantined": outcome.quarantined,
                "spooled": 0,
                "recovered": 0,
                "requests": 0,
            },
            str(problem) if problem else None,
        )
    if problem:
        raise problem
    return outcome, reasons + Counter(why for _, why in outcome.refused)


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--city", help="whose observations these are")
    parser.add_argument(
        "--units",
        choices=UNITS,
        default=os.environ.get("OPENWEATHER_UNITS", "imperial"),
        help="of the records that do not say theirs",
    )
    parser.add_argument("file", nargs="?", type=Path)
    options = parser.parse_args()
    cities = json.loads(os.environ.get("WEATHER_CITIES") or "[]")
    naming = Naming(options.city, options.units, {city["id"]: city["name"] for city in cities if "id" in city})
    try:
        with options.file.open("rb") if options.file else sys.stdin.buffer as file:
            outcome, reasons = bring_in(file, naming)
    except (FileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_FILE
    except psycopg.Error as error:
        print(f"error: Postgres: {' '.join(str(error).split())}", file=sys.stderr)
        return NONE
    print(
        json.dumps(
            {
                "stored": outcome.new,
                "unchanged": outcome.known,
                "quarantined": outcome.quarantined,
                "reasons": dict(reasons.most_common(10)),
            },
            ensure_ascii=False,
        )
    )
    return SOME if outcome.quarantined else 0


if __name__ == "__main__":
    sys.exit(main())
