"""Benchmark of ClickHouse: `python -m benchmarks.clickhouse [rows of history [builds]]`; default: 5,000,000 and 5.

The weather in ClickHouse's engine (chdb behind the HTTPS front of the tests, on the same machine) and in a file, from
the same raw rows, in turns: a full build, hourly builds with 1,000 new rows, and the aggregates of all observations.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.ingest import deployed
from benchmarks.lake import IN_FILE, compared, run
from benchmarks.marts import _DAYS, _NEW, Warehouse, create_warehouse
from benchmarks.table import Row, numbers, print_table
from tests.integration import clickhouse_server, pg
from tests.integration.conftest import write_profiles

_ROWS, _BUILDS = 5_000_000, 5


@dataclass
class ClickHouseWarehouse(Warehouse):
    """A warehouse whose models are built in ClickHouse."""

    clickhouse: clickhouse_server.Server | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of dbt."""
        assert self.clickhouse  # noqa: S101
        return {**super().environment, **self.clickhouse.variables}


def compare(server: pg.Server, database: str, rows: int, builds: int) -> Iterator[Row]:
    """Build both from the same rows, in turns."""
    with ExitStack() as stack:
        file = create_warehouse(stack, server, database)
        other = create_warehouse(stack, server, database)
        write_profiles(other.data, other.data / "extensions", "2GB", clickhouse=True)
        engine = stack.enter_context(clickhouse_server.server())
        there = ClickHouseWarehouse(server, file.database, other.data, clickhouse=engine)
        file.insert_hours(-rows // _NEW, -1)
        yield compared(f"full build, {rows:,} rows", there.build(), file.build())
        taken: dict[str, list[float]] = {"file": [], "clickhouse": []}
        for turn in range(builds):
            file.insert_hours(turn, turn)
            taken["file"].append(file.build())
            taken["clickhouse"].append(there.build())
            print(f"{turn + 1}: {taken}", file=sys.stderr, flush=True)
        yield compared(f"hourly build, {_NEW:,} new rows", min(taken["clickhouse"]), min(taken["file"]))
        sql = _DAYS.format(observations="staging.stg_weather")
        in_file = json.loads(run(IN_FILE, file.environment, sql, str(file.data / "published.duckdb")))
        query = sql.replace("cast(observation_timestamp at time zone 'UTC' as date)", "toDate(observation_timestamp)")
        yield compared("daily aggregates of all rows", min(_seconds(engine, query) for _ in range(3)), in_file["query"])


def _seconds(engine: clickhouse_server.Server, sql: str) -> float:
    started = time.perf_counter()
    engine.query(f"{sql} format Null")
    return time.perf_counter() - started


def main() -> None:
    """Measure and print one table."""
    rows, builds = numbers(_ROWS, _BUILDS)
    with deployed() as (server, database):
        print_table(compare(server, database, rows, builds))


if __name__ == "__main__":
    main()
