"""The marts, measured: `python -m benchmarks.marts [rows of history …]`; 1,000, 100,000 and 5,000,000 by themselves.

An hourly build with 1,000 new rows, with more and more history behind it, in turns and the fastest of each: what is
compared ran side by side, on the same machine. The hour's whole run for three cities: fetch, build, publish. Where
dbt's own start is taken off, it is that of `dbt ls` in the same place: imports, configuration, the parsed project.
Last, the daily mart's aggregates over the longest history, in DuckDB's published file and in the Postgres that it came
from: over a plain table with the same columns, and over the raw jsonb.
"""

from __future__ import annotations

import json
import os
import platform
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
from benchmarks.table import Row, shown
from homelab.model import DatabaseGrant
from homelab.render import render
from homelab.services.postgres import grants
from tests.integration import pg
from tests.integration.conftest import KEY, replay_server
from tests.scripts import ROOT, SCRIPTS

_SIZES, _ROUNDS, _NEW = (1_000, 100_000, 5_000_000), 5, 1_000
_PYTHON = str(ROOT / ".venv-analytics" / "bin" / "python")
_DBT = str(Path(_PYTHON).with_name("dbt"))
_PROJECT = str(ROOT / "pipeline" / "dbt" / "analytics_project")
# A thousand cities; the last of `hours` ends just before this month's first full hour that is past.
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
from generate_series({first}, {last}) as hour, generate_series(1, {new}) as city,
    lateral (select date_trunc('hour', now()) - interval '1 day' + interval '1 hour' * hour) as at (moment)
order by hour
"""


# Over {observations} with the columns of staging; the day is UTC's.
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
    """One database with its history, and the folder that its marts are built in."""

    server: pg.Server
    database: str
    data: Path
    hours: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """Where dbt finds everything."""
        return {
            **os.environ,
            **self.server.environment(self.database, "dbt", "dbt"),
            "DBT_TARGET_PATH": str(self.data / "target"),
            "DBT_LOG_PATH": str(self.data / "logs"),
        }

    def tell(self, first: int, last: int) -> None:
        """Rows of these hours, a thousand each; 0 is the first new one."""
        with self.server.connect(self.database) as connection:
            connection.execute(_HISTORY.format(first=first, last=last, new=_NEW).encode())
            connection.execute("analyze raw.weather_observations")

    def build(self) -> float:
        """Seconds that dbt_build.py takes."""
        started = time.perf_counter()
        subprocess.run(
            [_PYTHON, str(SCRIPTS / "dbt_build.py"), "--data", str(self.data), "--profiles", str(self.data)],
            env=self.environment,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - started

    def start(self) -> float:
        """Seconds that dbt takes to say what a model is called."""
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


def made(stack: ExitStack, server: pg.Server, database: str) -> Warehouse:
    """An empty warehouse beside a database as a deploy makes it."""
    data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    subprocess.run(
        [_PYTHON, str(SCRIPTS / "install_extension.py"), str(data / "extensions")], check=True, capture_output=True
    )
    (data / "profiles.yml").write_bytes(
        render(
            "analytics/profiles.yml.j2",
            warehouse=str(data / "warehouse.duckdb"),
            threads=2,
            extension_directory=str(data / "extensions"),
            memory_limit="2GB",
        )
    )
    with server.connect(database) as connection:
        connection.execute((ROOT / "templates" / "postgres" / "project_data.sql").read_bytes())
        connection.execute(
            "create table if not exists raw.before partition of raw.weather_observations for values "
            f"from (minvalue) to ('{time.strftime('%Y-%m-01', time.gmtime())} 00:00+00')".encode()
        )
        connection.execute(grants(DatabaseGrant(database, "dbt", "read")).sql.encode())
    return Warehouse(server, database, data)


def flat(server: pg.Server, sizes: Sequence[int]) -> Iterator[Row]:
    """An hourly build behind histories of these sizes, in turns."""
    with ExitStack() as stack:
        wanted: dict[int, Warehouse] = {}
        for size in sizes:
            name = stack.enter_context(server.database(f"history_{size}"))
            wanted[size] = made(stack, server, name)
            wanted[size].tell(-size // _NEW, -1)
            print(f"· {size:,} rows are there; all built anew in {wanted[size].build():.0f} s", file=sys.stderr)
        starts = []
        for turn in range(_ROUNDS):
            for warehouse in wanted.values():
                warehouse.tell(turn, turn)
                warehouse.seconds.append(warehouse.build())
                starts.append(warehouse.start())
        least, start = min(wanted[sizes[0]].seconds), min(starts)
        yield Row("dbt's own start", f"{start:.1f} s", "", "", "", True)
        for size, warehouse in wanted.items():
            best = min(warehouse.seconds)
            yield Row(
                f"hourly build, {_NEW:,} new rows, {size:,} before",
                f"{best:.1f} s",
                f"{best - start:.1f} s without dbt's start",
                f"{best / least:.2f}",
                "≤ 1.2",
                best <= 1.2 * least,
            )
        yield from beside_postgres(wanted[max(sizes)])


def beside_postgres(warehouse: Warehouse) -> Iterator[Row]:
    """The daily mart's aggregates over all observations, in DuckDB and in Postgres; all three answers are the same."""
    sql = _DAYS.format(observations="staging.stg_weather")
    said = subprocess.run(
        [_PYTHON, "-c", _IN_DUCKDB, str(warehouse.data / "published.duckdb"), sql, str(_ROUNDS)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    duckdb, *answer = json.loads(said)
    with warehouse.server.connect(warehouse.database) as connection:
        connection.execute(f"create table flattened as {_FLATTENED[1:-1]}".encode())
        connection.execute("vacuum analyze flattened")
        connection.execute("set work_mem = '256MB'; set timezone = 'UTC'; set max_parallel_workers_per_gather = 2")
        for what, observations, rounds in (("a plain table", "flattened", 3), ("the raw jsonb", _FLATTENED, 2)):
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
                f"Postgres, {what}: {min(taken):.2f} s",
                f"{min(taken) / duckdb:.1f}x faster",
                "",
                True,
            )


def hour(server: pg.Server, database: str) -> Iterator[Row]:
    """The hour's run for three cities: fetch, build, publish."""
    with ExitStack() as stack:
        warehouse = made(stack, server, database)
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
        start = min(warehouse.start() for _ in range(3))
        yield Row(
            "the hour's run, 3 cities",
            f"{fetched + built:.1f} s",
            f"fetch {fetched:.1f} s, build and publish {built:.1f} s, of which dbt's start {start:.1f} s",
            "",
            "≤ 10 s",
            fetched + built <= 10,
        )


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    sizes = [int(word) for word in sys.argv[1:]] or list(_SIZES)
    with deployed() as (server, database):
        shown(
            chain(hour(server, database), flat(server, sizes)),
            lambda: f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
        )


if __name__ == "__main__":
    main()
