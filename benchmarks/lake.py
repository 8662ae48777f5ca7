"""Benchmark of the lake: `python -m benchmarks.lake [rows of history [builds]]`; default: 5,000,000 and 20.

The weather in a lake (PostgreSQL 16 and SeaweedFS over TLS on loopback) and in a file, from the same raw rows, in
turns: a full build, hourly builds with 1,000 new rows, the aggregates of the daily mart, and the maintenance after a
build. The growth is that of the objects and of the rows of the catalog, over the hourly builds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from benchmarks.ingest import deployed
from benchmarks.marts import _DAYS, _NEW, _PYTHON, Warehouse, create_warehouse
from benchmarks.table import Row, numbers, print_table
from homelab.model import DatabaseGrant
from homelab.services.database_grants import schema_of
from tests.integration import pg, seaweed
from tests.integration.conftest import write_profiles

_ROWS, _BUILDS = 5_000_000, 20
_IN_LAKE = """
import json, sys, time
from lake import Lake
lake = Lake.from_environment()
def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
found = {"maintenance": seconds(lake.maintain)}
with lake.connect() as connection:
    found["query"] = min(seconds(lambda: connection.execute(sys.argv[1]).fetchall()) for _ in range(3))
print(json.dumps(found))
"""
IN_FILE = """
import duckdb, json, sys, time
with duckdb.connect(sys.argv[2], read_only=True, config={"memory_limit": "1GB"}) as connection:
    connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        connection.execute(sys.argv[1]).fetchall()
        taken.append(time.perf_counter() - started)
print(json.dumps({"query": min(taken)}))
"""


@dataclass
class LakeWarehouse(Warehouse):
    """A warehouse whose tables are in a lake."""

    storage: seaweed.Storage | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of dbt."""
        assert self.storage  # noqa: S101
        return {
            **super().environment,
            **self.storage.variables,
            "LAKE_SCHEMA": "weather",
            "LAKE_RETENTION_SECONDS": "86400",
            "DUCKDB_EXTENSIONS": str(self.data / "extensions"),
        }

    def objects(self) -> tuple[int, int]:
        """Return the number and the bytes of the Parquet files."""
        program = (
            "import json\nfrom lake import Lake\nlake = Lake.from_environment()\nwith lake.connect() as connection:\n"
            '    files = connection.execute("select count(*), sum(size) from read_blob(\'" + lake.url + "**\')")\n'
            "    print(json.dumps([int(value) for value in files.fetchone()]))"
        )
        number, size = json.loads(run(program, self.environment))
        return number, size

    def catalog_rows(self) -> int:
        """Return the number of rows in all tables of the catalog."""
        with self.server.connect("lake") as connection:
            tables = connection.execute("select tablename from pg_tables where schemaname = 'weather'")
            counts = [SQL("select count(*) from weather.{}").format(Identifier(name)) for (name,) in tables.fetchall()]
            return sum(connection.execute(count).fetchall()[0][0] for count in counts)


def run(program: str, environment: Mapping[str, str], *words: str) -> str:
    """Run a Python text; return its output."""
    command = [_PYTHON, "-c", program, *words]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def lake_of(stack: ExitStack, server: pg.Server, database: str, file: Warehouse) -> LakeWarehouse:
    """Return a lake next to a file, for the same database."""
    storage = stack.enter_context(seaweed.storage())
    other = create_warehouse(stack, server, database)
    write_profiles(other.data, other.data / "extensions", "2GB", lake=True)
    stack.enter_context(server.database("lake"))
    with server.connect("lake") as connection:
        connection.execute(schema_of(DatabaseGrant("lake", "dbt", "own", "weather")).sql.encode())  # type: ignore[arg-type]
    return LakeWarehouse(server, file.database, other.data, storage=storage)


def compare(server: pg.Server, database: str, rows: int, builds: int) -> Iterator[Row]:
    """Build both from the same rows, in turns."""
    with ExitStack() as stack:
        file = create_warehouse(stack, server, database)
        lake = lake_of(stack, server, database, file)
        file.insert_hours(-rows // _NEW, -1)
        full = {"file": file.build(), "lake": lake.build()}
        yield compared(f"full build, {rows:,} rows", full["lake"], full["file"])
        objects, catalog = lake.objects(), lake.catalog_rows()
        taken: dict[str, list[float]] = {"file": [], "lake": []}
        for turn in range(builds):
            file.insert_hours(turn, turn)
            taken["file"].append(file.build())
            taken["lake"].append(lake.build())
            print(f"{turn + 1}: {lake.objects()}, {lake.catalog_rows()}", file=sys.stderr, flush=True)
        yield compared(f"hourly build, {_NEW:,} new rows", min(taken["lake"]), min(taken["file"]))
        sql = _DAYS.format(observations="staging.stg_weather")
        in_lake = json.loads(run(_IN_LAKE, lake.environment, sql))
        in_file = json.loads(run(IN_FILE, file.environment, sql, str(file.data / "published.duckdb")))
        yield compared("daily aggregates of all rows", in_lake["query"], in_file["query"])
        yield Row("maintenance after a build", f"{in_lake['maintenance']:.1f} s", "", "", "", True)
        now, then = lake.objects(), (objects, catalog)
        grown = f"{then[0][0]} files, {then[0][1] / 1e6:.0f} MB, {then[1]:,} rows"
        yield Row(
            f"lake after {builds} hourly builds",
            f"{now[0]} files, {now[1] / 1e6:.0f} MB, {lake.catalog_rows():,} rows of the catalog",
            f"after the full build: {grown}",
            "",
            "",
            True,
        )


def compared(title: str, ours: float, file: float) -> Row:
    """Return the row of two times in seconds: ours, and that of a file."""
    return Row(title, f"{ours:.1f} s", f"file: {file:.1f} s", f"{ours / file:.2f}", "", True)


def main() -> None:
    """Measure and print one table."""
    rows, builds = numbers(_ROWS, _BUILDS)
    with deployed() as (server, database):
        print_table(compare(server, database, rows, builds))


if __name__ == "__main__":
    main()
