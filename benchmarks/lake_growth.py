"""Benchmark of a lake's growth: `python -m benchmarks.lake_growth [builds [cities]]`; default: 1,000 of 100 cities.

Hourly builds as in benchmarks.growth, in a lake with a retention of a day: after each day of builds, the Parquet files,
their bytes, and the rows of the catalog. The clock of the storage is the real one, so an hour is the time of a build
here: the retention, and the ages after which files are deleted, are as many builds as they are hours in a deploy.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.growth import build, builder, insert_hour
from benchmarks.ingest import deployed
from benchmarks.lake import lake_of
from benchmarks.marts import create_warehouse
from benchmarks.table import Row, numbers, print_table
from tests.integration import pg

_BUILDS, _CITIES, _DAY = 1_000, 100, 24
# Replaces the ages in the builder by as many builds as they are hours.
_AGES = """
import lake
from datetime import timedelta
hour = float(os.environ["BENCHMARK_HOUR"])
lake._DELETED_AFTER, lake._ORPHANED_AFTER = timedelta(seconds=hour), timedelta(seconds=48 * hour)
"""


@dataclass(frozen=True)
class Size:
    """The files of a lake, their bytes, the rows of its catalog, and the seconds of the builds before."""

    files: int
    bytes: int
    rows: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.files} files, {self.bytes / 1e6:.1f} MB, {self.rows:,} rows, {self.seconds:.1f} s a build"


def growth(server: pg.Server, database: str, builds: int, cities: int) -> Iterator[Row]:
    """Build again and again, and measure after each day."""
    begin = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=builds)
    found: list[Size] = []
    with ExitStack() as stack:
        warehouse = lake_of(stack, server, database, create_warehouse(stack, server, database))
        connection = stack.enter_context(server.connect(database))

        def run(first: int, last: int, hour: float) -> list[float]:
            taken = []
            with builder(
                warehouse, _AGES, BENCHMARK_HOUR=str(hour), LAKE_RETENTION_SECONDS=str(_DAY * hour)
            ) as process:
                for number in range(first, last):
                    now = begin + timedelta(hours=number)
                    insert_hour(connection, now, cities)
                    started = time.monotonic()
                    build(process, warehouse, now)
                    taken.append(time.monotonic() - started)
            return taken

        taken, done = run(0, 2, 10), 2
        while done < builds:
            last = min(done + _DAY, builds)
            taken, done = run(done, last, statistics.median(taken)), last
            found.append(Size(*warehouse.objects(), warehouse.catalog_rows(), statistics.median(taken)))
            print(f"{done} builds: {found[-1]}", file=sys.stderr, flush=True)
    yield Row(
        f"lake after {builds:,} builds, {cities} cities",
        str(found[-1]),
        f"after the first {_DAY + 2}: {found[0]}",
        "",
        "",
        True,
    )
    yield Row(
        "at most",
        f"{max(each.files for each in found)} files",
        f"{max(each.rows for each in found):,} rows",
        "",
        "",
        True,
    )


def main() -> None:
    """Measure and print one table."""
    builds, cities = numbers(_BUILDS, _CITIES)
    with deployed() as (server, database):
        print_table(growth(server, database, builds, cities))


if __name__ == "__main__":
    main()
