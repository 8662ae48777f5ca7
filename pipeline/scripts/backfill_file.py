"""Store past observations from a file of JSON or JSON lines in raw.weather_observations, validated as in an ingestion.

    backfill_file.py [--city NAME] [--units UNITS] [FILE]      without FILE: standard input

A record is one of: a response of OpenWeather's "current weather"; an object with `data` (such a response), `city` and
`units`, as exported from the raw table; a response of the history API, with many observations in its `list`. Its city
comes from, in this order: the option; the record's own `city`; the city in WEATHER_CITIES with the response's id; the
response's name and country. A repeated run leaves rows that are stored already unchanged.

The last line of standard output is a JSON summary. Exit status: 0 everything is stored; 4 some observations are invalid
(raw.quarantine has them, with the reason); 1 PostgreSQL cannot be reached; 2 the file cannot be read.
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
from contract import EXIT
from ingest_settings import DEFAULT_UNITS, UNITS
from raw_tables import Batch, StoreResult, connect, record_end, record_start, store
from spool import observation_line, quarantine_line
from validation import InvalidResponse, parse_observation

_BATCH = 5_000  # rows


class FileError(Exception):
    """The file is neither JSON nor JSON lines."""


@dataclass(frozen=True, slots=True)
class RecordParser:
    """Turns records into lines for PostgreSQL; `units` and `known_cities` complete records that lack them."""

    city: str | None  # overrides the record's
    units: str
    known_cities: dict[int, str] = field(default_factory=dict)  # by OpenWeather's id

    def line(self, record: object) -> tuple[bytes, str]:
        """Return a record's line, and the reason if it is invalid."""
        record = record if isinstance(record, dict) else {"data": record}
        data = record.get("data", record)
        city, units = self._city(record, data), record.get("units") or self.units
        body = json.dumps(data, ensure_ascii=False).encode()
        try:
            if not city:
                raise InvalidResponse("the observation has no city", body)
            if units not in UNITS:
                raise InvalidResponse(f"unknown units {str(units)[:40]!r}", body)
            text, dt = parse_observation(body, time.time())
        except InvalidResponse as error:
            return quarantine_line(city or "unknown", str(units), str(error), body), str(error)
        return observation_line(city, units, dt, text), ""

    def _city(self, record: dict[str, Any], data: object) -> str:
        city = self.city or record.get("city")
        if isinstance(city, str):
            return city
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            return ""
        system = data.get("sys")
        country = system.get("country") if isinstance(system, dict) else None
        return self.known_cities.get(data.get("id", -1)) or (f"{data['name']},{country}" if country else data["name"])


def read_records(file: IO[bytes]) -> Iterator[object]:
    """Yield the records of a file. Raises FileError."""
    first = file.readline()
    while first and not first.strip():
        first = file.readline()
    try:
        yield from _expand(json.loads(first))
    except ValueError:
        # The first line alone is not JSON: the file may be one document of many lines.
        try:
            yield from _expand(json.loads(first + file.read()))
        except ValueError as error:
            raise FileError(f"neither JSON nor JSON lines: {error}") from None
        return
    for number, line in enumerate(file, start=2):
        if line.strip():
            try:
                document = json.loads(line)
            except ValueError as error:
                raise FileError(f"line {number} is not JSON: {error}") from None
            yield from _expand(document)


def _expand(document: object) -> Iterator[object]:
    """Yield the records of a document: one observation, a list, or a response of the history API."""
    if isinstance(document, list):
        yield from document
    elif isinstance(document, dict) and isinstance(document.get("list"), list):
        yield from ({"city": document.get("city"), "data": data} for data in document["list"])
    else:
        yield document


def backfill(file: IO[bytes], parser: RecordParser) -> tuple[StoreResult, Counter[str]]:
    """Store a file's observations; return the result and the reasons of invalid ones.

    Raises FileError after the valid beginning of the file is stored, and psycopg.Error.
    """
    run, result, reasons, lines = uuid4(), StoreResult(), Counter[str](), list[bytes]()
    with connect() as connection:
        record_start(connection, run, datetime.now(UTC))
        file_error: FileError | None = None
        try:
            for record in read_records(file):
                line, reason = parser.line(record)
                reasons.update([reason] if reason else [])
                lines.append(line)
                if len(lines) == _BATCH:
                    result += store(connection, Batch.of(lines))
                    lines = []
        except FileError as error:
            file_error = error
        result += store(connection, Batch.of(lines))
        record_end(connection, run, result.counters(), str(file_error) if file_error else None)
    if file_error:
        raise file_error
    return result, reasons + Counter(reason for _, reason in result.refused)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--city", help="city of all records")
    arguments.add_argument(
        "--units",
        choices=UNITS,
        default=os.environ.get("OPENWEATHER_UNITS", DEFAULT_UNITS),
        help="units of records without their own",
    )
    arguments.add_argument("file", nargs="?", type=Path)
    options = arguments.parse_args()
    cities = json.loads(os.environ.get("WEATHER_CITIES") or "[]")
    parser = RecordParser(options.city, options.units, {city["id"]: city["name"] for city in cities if "id" in city})
    try:
        with options.file.open("rb") if options.file else sys.stdin.buffer as file:
            result, reasons = backfill(file, parser)
    except (FileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    except psycopg.Error as error:
        print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(
        json.dumps(
            {
                "stored": result.stored,
                "unchanged": result.unchanged,
                "quarantined": result.quarantined,
                "reasons": dict(reasons.most_common(10)),
            },
            ensure_ascii=False,
        )
    )
    return EXIT.partial if result.quarantined else EXIT.success


if __name__ == "__main__":
    sys.exit(main())
