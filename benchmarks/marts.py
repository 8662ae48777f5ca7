"""Benchmarks of the marts: `python -m benchmarks.marts [rows of history …]`; default: 1,000, 100,000 and 5,000,000.

An hourly build with 1,000 new rows and different lengths of history, in turns; the fastest run of each counts. The
whole hourly run for three cities: fetch, build, publish. dbt's start time, where it is subtracted, is that of `dbt ls`:
imports, configuration, the parsed project. Last, the aggregates of the daily mart over the longest history, in DuckDB's
published file and in Postgres: over a plain table with the same columns, and over the raw jsonb.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ingest import deployed
from benchmarks.table import Row, print_table
from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.conftest import KEY, replay_server, write_profiles
from tests.scripts import PROJECT, ROOT, SCHEMA, SCRIPTS, script

from publish import publish  # isort: skip

_SIZES, _ROUNDS, _NEW = (1_000, 100_000, 5_000_000), 5, 1_000
_PYTHON = str(ROOT / ".venv-analytics" / "bin" / "python")
_DBT = str(Path(_PYTHON).with_name("dbt"))
_PROJECT = str(PROJECT)
# A thousand cities; hour 0 is the full hour one day ago. The values are plausible: each other one would be an issue.
_HISTORY = """
insert into raw.weather_observations (city, ingested_at, units, data)
select 'City ' || city, moment, 'imperial', jsonb_build_object(
    'dt', extract(epoch from moment)::bigint, 'id', city, 'name', 'City ' || city, 'cod', 200, 'timezone', -18000,
    'visibility', 10000, 'coord', jsonb_build_object('lon', city * 0.01, 'lat', 40.7),
    'main', jsonb_build_object('temp', 30 + (hour * 7919 + city * 104729) % 5000 / 100.0, 'feels_like', 30,
                               'humidity', (hour + city) % 101, 'pressure', 980 + (hour * city) % 60),
    'wind', jsonb_build_object('speed', (hour * 31 + city) % 3000 / 100.0, 'deg', (hour + city) % 360),
    'clouds', jsonb_build_object('all', hour * city % 101),
    'sys', jsonb_build_object('country', 'US', 'sunrise', 1357041600, 'sunset', 1357077600),
    'weather', jsonb_build_array(jsonb_build_object('id', 800, 'main', 'Clear', 'description', 'clear sky')))
from generate_series({first}, {last}) as number, generate_series(1, {new}) as city,
    lateral (select abs(number), date_trunc('hour', now()) - interval '1 day' + interval '1 hour' * number)
        as at (hour, moment)
order by number
"""


# {observations} has the columns of staging; days are in UTC.
_DAYS = """
select city, cast(observation_timestamp at time zone 'UTC' as date) as day, count(*), min(temperature_f),
    avg(temperature_f), max(temperature_f), avg(humidity_pct), avg(pressure_hpa), avg(wind_speed_mph),
    max(wind_speed_mph)
from {observations} as observations group by city, day order by city, day
"""
_FLATTENED = """(select city, to_timestamp((data ->> 'dt')::bigint) as observation_timestamp,
    (data #>> '{main,temp}')::float8 as temperature_f, (data #>> '{main,humidity}')::float8 as humidity_pct,
    (data #>> '{main,pressure}')::float8 as pressure_hpa, (data #>> '{wind,speed}')::float8 as wind_speed_mph
from raw.weather_observations)"""
_IN_DUCKDB = """
import duckdb, json, sys, time
with duckdb.connect(sys.argv[1], read_only=True, config={"threads": 2, "memory_limit": "2GB"}) as connection:
    connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
    taken = []
    for _ in range(int(sys.argv[3])):
        started = time.perf_counter()
        rows = connection.execute(sys.argv[2]).fetchall()
        taken.append(time.perf_counter() - started)
print(json.dumps([min(taken), len(rows), sum(row[2] for row in rows), sum(row[4] for row in rows)]))
"""


@dataclass
class Warehouse:
    """A database with its history, and the folder of its marts."""

    server: pg.Server
    database: str
    data: Path
    hours: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of dbt."""
        return {
            **os.environ,
            **self.server.environment(self.database, "dbt", "dbt"),
            "DBT_TARGET_PATH": str(self.data / "target"),
            "DBT_LOG_PATH": str(self.data / "logs"),
        }

    def insert_hours(self, first: int, last: int) -> None:
        """Insert a thousand rows for each hour; 0 is the first new one."""
        with self.server.connect(self.database) as connection:
            connection.execute(_HISTORY.format(first=first, last=last, new=_NEW).encode())
            connection.execute("analyze raw.weather_observations")

    def build(self) -> float:
        """Run dbt_build.py and return its seconds."""
        started = time.perf_counter()
        subprocess.run(
            [_PYTHON, str(SCRIPTS / "dbt_build.py"), "--data", str(self.data), "--profiles", str(self.data)],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        taken = time.perf_counter() - started
        if "homelab_pipeline_issues 0\n" not in (self.data / "metrics.prom").read_text():
            raise SystemExit("The history has implausible values: their issues would be measured, too.")
        return taken

    def dbt_start(self) -> float:
        """Run `dbt ls` for one model and return its seconds."""
        started = time.perf_counter()
        subprocess.run(
            [
                _DBT,
                "-q",
                "ls",
                "--select",
                "landing_weather",
                "--project-dir",
                _PROJECT,
                "--profiles-dir",
                str(self.data),
            ],
            env=self.environment,
            check=True,
            capture_output=True,
            cwd=self.data,
        )
        return time.perf_counter() - started


def create_warehouse(stack: ExitStack, server: pg.Server, database: str) -> Warehouse:
    """Return an empty warehouse for a database with the tables of a deploy."""
    data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    subprocess.run([_PYTHON, script("install_extension.py"), str(data / "extensions")], check=True, capture_output=True)
    write_profiles(data, data / "extensions", "2GB")
    with server.connect(database) as connection:
        connection.execute(SCHEMA.read_bytes())
        connection.execute(
            "create table if not exists raw.before partition of raw.weather_observations for values "
            f"from (minvalue) to ('{time.strftime('%Y-%m-01', time.gmtime())} 00:00+00')".encode()
        )
        connection.execute(raw_grants(DatabaseGrant(database, "dbt", "read", "raw")).sql.encode())
    return Warehouse(server, database, data)


def builds(server: pg.Server, sizes: Sequence[int]) -> Iterator[Row]:
    """Measure hourly builds for histories of these sizes, in turns."""
    with ExitStack() as stack:
        wanted: dict[int, Warehouse] = {}
        for size in sizes:
            name = stack.enter_context(server.database(f"history_{size}"))
            wanted[size] = create_warehouse(stack, server, name)
            wanted[size].insert_hours(-size // _NEW, -1)
            print(f"· {size:,} rows inserted; full build in {wanted[size].build():.0f} s", file=sys.stderr)
        starts = []
        for turn in range(_ROUNDS):
            for warehouse in wanted.values():
                warehouse.insert_hours(turn, turn)
                warehouse.seconds.append(warehouse.build())
                starts.append(warehouse.dbt_start())
        least, start = min(wanted[sizes[0]].seconds), min(starts)
        yield Row("dbt's own start", f"{start:.1f} s", "", "", "", True)
        for size, warehouse in wanted.items():
            best = min(warehouse.seconds)
            yield Row(
                f"hourly build, {_NEW:,} new rows, {size:,} existing",
                f"{best:.1f} s",
                f"{best - start:.1f} s without dbt's start",
                f"{best / least:.2f}",
                "≤ 1.1",
                best <= 1.1 * least,
            )
        yield publishing(wanted[max(sizes)])
        yield from compare_with_postgres(wanted[max(sizes)])


def publishing(warehouse: Warehouse) -> Row:
    """Measure the publication of the warehouse, and a plain copy of the file that is on disk, too."""
    source, taken = warehouse.data / "warehouse.duckdb", []
    gigabytes = source.stat().st_size / 1e9
    with tempfile.TemporaryDirectory(dir=warehouse.data) as folder:
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            publish(source, Path(folder) / "published.duckdb")
            published = time.perf_counter()
            subprocess.run(["sh", "-c", f"cp '{source}' '{folder}/copy' && sync '{folder}/copy'"], check=True)
            taken.append((published - started, time.perf_counter() - published))
    ours, copy = (min(each) / gigabytes for each in zip(*taken, strict=True))
    title, ratio = f"publishing {gigabytes * 1000:,.0f} MB", f"{ours / copy:.2f}"
    return Row(title, f"{ours:.1f} s/GB", f"cp and sync: {copy:.1f} s/GB", ratio, "", True)


def compare_with_postgres(warehouse: Warehouse) -> Iterator[Row]:
    """Measure the aggregates of the daily mart in DuckDB and in Postgres; all three results are equal."""
    sql = _DAYS.format(observations="staging.stg_weather")
    output = subprocess.run(
        [_PYTHON, "-c", _IN_DUCKDB, str(warehouse.data / "published.duckdb"), sql, str(_ROUNDS)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    duckdb, *answer = json.loads(output)
    with warehouse.server.connect(warehouse.database) as connection:
        connection.execute(f"create table flattened as {_FLATTENED[1:-1]}".encode())
        connection.execute("vacuum analyze flattened")
        connection.execute("set work_mem = '256MB'; set timezone = 'UTC'; set max_parallel_workers_per_gather = 2")
        for source, observations, rounds in (("a plain table", "flattened", 3), ("the raw jsonb", _FLATTENED, 2)):
            taken = []
            for _ in range(rounds):
                started = time.perf_counter()
                rows: list[Any] = connection.execute(_DAYS.format(observations=observations).encode()).fetchall()
                taken.append(time.perf_counter() - started)
            found = [len(rows), sum(row[2] for row in rows), sum(row[4] for row in rows)]
            assert found == [*answer[:2], pytest.approx(answer[2])], (found, answer)  # noqa: S101
            yield Row(
                f"daily aggregates of {answer[1]:,} observations",
                f"DuckDB {duckdb:.2f} s",
                f"Postgres, {source}: {min(taken):.2f} s",
                f"{min(taken) / duckdb:.1f}x faster",
                "",
                True,
            )


def hourly_run(server: pg.Server, database: str) -> Iterator[Row]:
    """Measure the whole hourly run for three cities: fetch, build, publish."""
    with ExitStack() as stack:
        warehouse = create_warehouse(stack, server, database)
        replay = stack.enter_context(replay_server(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        environment = {
            **os.environ,
            **server.environment(database, "analytics", "analytics"),
            "WEATHER_DATA": str(warehouse.data),
            "OPENWEATHER_BASE_URL": replay.url,
            "OPENWEATHER_API_KEY": KEY,
            "WEATHER_CITIES": json.dumps([{"name": name} for name in ("Newark,US", "New York,US", "Queens,US")]),
        }
        runs = []
        for _ in range(_ROUNDS + 1):
            started = time.perf_counter()
            subprocess.run(
                [_PYTHON, str(SCRIPTS / "ingest_weather.py")], env=environment, check=True, capture_output=True
            )
            fetched = time.perf_counter() - started
            runs.append((fetched, warehouse.build()))
        fetched, built = min(runs[1:], key=sum)
        start = min(warehouse.dbt_start() for _ in range(3))
        yield Row(
            "hourly run, 3 cities",
            f"{fetched + built:.1f} s",
            f"fetch {fetched:.1f} s, build and publish {built:.1f} s, of which dbt's start {start:.1f} s",
            "",
            "≤ 5 s",
            fetched + built <= 5,
        )


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    sizes = [int(word) for word in sys.argv[1:]] or list(_SIZES)
    with deployed() as (server, database):
        print_table(chain(hourly_run(server, database), builds(server, sizes)))


if __name__ == "__main__":
    main()
