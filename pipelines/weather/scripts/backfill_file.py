"""Store past observations from a file of JSON or JSON lines in raw.weather_observations, validated as in an ingestion.

    backfill_file.py [--city NAME [--new-city]] [--units UNITS] [--replace] [FILE]      without FILE: standard input

A record is one of: a response of OpenWeather's "current weather"; an object with `data` (such a response), `city` and
`units`, as exported from the raw table; a record of a history bulk; a response of the history API, with many
observations in its `list`. A repeated run leaves rows that are stored already unchanged; with `--replace`, observations
that differ from the stored ones replace them as their next revision.

The whole file is judged before its first row is stored: a file is refused if its temperatures are impossible in the
units. The last line of standard output is a JSON summary. Exit status: 0 everything is stored; 4 some observations are
invalid (raw.quarantine has them, with the reason); 8 nothing is stored: the file cannot be read, or nothing in it is an
observation; 1 PostgreSQL cannot be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import psycopg
from backfill_records import FileError, RecordParser, read_records
from contract import EXIT, Parser
from ingest_settings import DEFAULT_UNITS, UNITS, SettingsError, configured_cities
from raw_tables import Batch, Connection, StoreResult, connect, record_end, record_start, store

_BATCH = 5_000  # rows
_SHARE = 20  # a file is refused if one of so many temperatures is impossible in its units
_SHOWN = 10  # reasons


@dataclass(slots=True)
class Judgement:
    """The judged records of a file: `lines` holds their lines for PostgreSQL."""

    lines: IO[bytes]
    records: int = 0
    units: Counter[str] = field(default_factory=Counter)  # of the valid records
    reasons: Counter[str] = field(default_factory=Counter)
    other_units: Counter[str] = field(default_factory=Counter)  # reasons of temperatures in other units

    def refusal(self) -> str:
        """Return the reason to refuse the whole file, or an empty text."""
        suspicious, valid = self.other_units.total(), self.units.total()
        if suspicious > 1 and suspicious * _SHARE >= suspicious + valid:
            reason = self.other_units.most_common(1)[0][0]
            return (
                f"{suspicious} of {suspicious + valid} temperatures are impossible in the given units: {reason}. "
                f"Name the units of the file: --units {' | '.join(UNITS)}"
            )
        if not valid:
            return f"it holds no valid observation{''.join(f'; {n} times: {r}' for r, n in self._frequent())}"
        return ""

    def _frequent(self) -> list[tuple[str, int]]:
        return self.reasons.most_common(_SHOWN)


@contextmanager
def judge(file: IO[bytes], parser: RecordParser) -> Iterator[Judgement]:
    """Judge all records of a seekable file; their lines wait in a temporary file. Raises FileError, OSError."""
    with tempfile.TemporaryFile(dir=os.environ.get("WEATHER_DATA")) as lines:
        judgement = Judgement(lines)
        for each in read_records(file):
            record = parser.parse(each)
            lines.write(record.line)
            judgement.records += 1
            if record.reason:
                judgement.reasons[record.reason] += 1
                judgement.other_units[record.reason] += record.other_units
            else:
                judgement.units[record.units] += 1
        lines.seek(0)
        yield judgement


def store_lines(connection: Connection, judgement: Judgement, replace: bool) -> StoreResult:
    """Store the judged records as one run. Raises psycopg.Error."""
    run, result = uuid4(), StoreResult()
    record_start(connection, run, datetime.now(UTC))
    while lines := list(islice(judgement.lines, _BATCH)):
        result += store(connection, Batch.of(lines, latest=replace), replace=replace)
    record_end(connection, run, result.counters(), None)
    return result


def require_city(connection: Connection, names: Collection[str], configured: Collection[str]) -> None:
    """Raise FileError for a city that is neither configured nor stored."""
    for name in names:
        stored = connection.execute("select from raw.weather_observations where city = %s limit 1", (name,)).fetchone()
        if name not in configured and stored is None:
            raise FileError(
                f"unknown city {name!r}: it is neither in the inventory nor in raw.weather_observations. If it is "
                "new, add --new-city"
            )


def summary_of(judgement: Judgement, result: StoreResult, assumed: str | None) -> tuple[int, dict[str, Any]]:
    """Return the exit status and the summary of a stored file."""
    reasons = judgement.reasons + Counter(reason for _, reason in result.refused)
    kept = result.stored + result.unchanged + result.replaced
    status = EXIT.success if not result.quarantined else EXIT.partial if kept else EXIT.bad_input
    return status, {
        "stored": result.stored,
        "unchanged": result.unchanged,
        "replaced": result.replaced,
        "quarantined": result.quarantined,
        "reasons": dict(reasons.most_common(_SHOWN)),
        "units": dict(judgement.units),
        "assumed_units": assumed,
    }


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Judge and store the file. Raises FileError, SettingsError, OSError and psycopg.Error."""
    cities = configured_cities(environment)
    default = environment.get("OPENWEATHER_UNITS") or DEFAULT_UNITS
    parser = RecordParser(options.city, options.units or default, {city.id: city.name for city in cities if city.id})
    with connect() as connection:
        if options.city and not options.new_city:
            require_city(connection, [options.city], {city.name for city in cities})
        with options.file.open("rb") if options.file else _standard_input() as file, judge(file, parser) as judgement:
            if refusal := judgement.refusal():
                raise FileError(refusal)
            result = store_lines(connection, judgement, options.replace)
            return summary_of(judgement, result, None if options.units else default)


@contextmanager
def _standard_input() -> Iterator[IO[bytes]]:
    """Copy standard input to a temporary file, which can be read twice."""
    with tempfile.TemporaryFile(dir=os.environ.get("WEATHER_DATA")) as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.seek(0)
        yield file


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    arguments = Parser(description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("--city", help="city of all records")
    arguments.add_argument("--new-city", action="store_true", help="accept a city that is not known yet")
    arguments.add_argument("--units", choices=UNITS, help="units of records without their own")
    arguments.add_argument("--replace", action="store_true", help="replace stored observations that differ")
    arguments.add_argument("file", nargs="?", type=Path)
    try:
        status, summary = run(arguments.parse_args(), os.environ)
    except (FileError, SettingsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    except psycopg.Error as error:
        print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    if status == EXIT.bad_input:
        reasons = "".join(f"; {count} times: {reason}" for reason, count in summary["reasons"].items())
        print(f"error: nothing is stored{reasons}", file=sys.stderr)
    print(json.dumps(summary, ensure_ascii=False))
    return status


if __name__ == "__main__":
    sys.exit(main())
