"""Benchmarks of the ingestion: `python -m benchmarks.ingest [cities]`; 0: only the write path. PostgreSQL 16, fsync on.

The write path (spool, keys, merge) is compared with one raw psycopg COPY of the same rows into the same table, in
turns; then 200,000 cities are fetched from the replay server without a rate limit, all processes on this machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

from benchmarks.process import peak_memory
from benchmarks.table import Row, print_table
from homelab.lab.observations import PLACES, answer, load
from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.conftest import KEY, replay_server
from tests.scripts import ROOT, SCHEMA, SCRIPTS

from ingest_weather import flush  # isort: skip
from loader import Loader, RunSummary  # isort: skip
from spool import Spool, observation_line  # isort: skip

_ROWS, _ROUNDS = 100_000, 5
_DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
}


@contextmanager
def deployed() -> Iterator[tuple[pg.Server, str]]:
    """Run a server with the database of a deploy."""
    with (
        pg.server(_DURABLE) as server,
        server.role("analytics", "analytics"),
        server.role("dbt", "dbt"),
        server.database("project_data") as name,
    ):
        with server.connect(name) as connection:
            connection.execute(f"revoke all on database {name} from public".encode())
            connection.execute(SCHEMA.read_bytes())
            connection.execute(raw_grants(DatabaseGrant(name, "analytics", "append", "raw")).sql.encode())
        yield server, name


def rows(count: int) -> Sequence[tuple[str, int, str]]:
    """Return city, time and payload of real observations, in the format of the replay server."""
    stations = load()
    texts = [
        (seen.time.timestamp(), json.dumps(answer(place, seen, "imperial")))
        for place in PLACES
        for seen in stations[place.station][:2000]
    ]
    return [(f"City {number}", int(texts[number % 6000][0]), texts[number % 6000][1]) for number in range(count)]


def raw_copy(server: pg.Server, database: str, wanted: Sequence[tuple[str, int, str]]) -> float:
    """Copy the rows with psycopg, row by row as in its manual, and return the seconds."""
    with server.connect(database, "analytics", "analytics") as connection:
        started = time.perf_counter()
        with connection.cursor().copy("copy raw.weather_observations (city, units, data) from stdin") as copy:
            for city, _, text in wanted:
                copy.write_row((city, "imperial", text))
        return time.perf_counter() - started


def write_path(server: pg.Server, database: str, wanted: Sequence[tuple[str, int, str]]) -> float:
    """Store the rows with the ingestion (spool, compare, merge, clear the spool), and return the seconds."""
    os.environ.update(server.environment(database, "analytics", "analytics"))
    with tempfile.TemporaryDirectory() as folder:
        spool, summary = Spool(Path(folder), 1 << 30), RunSummary(len(wanted))
        started = time.perf_counter()
        loader = Loader(uuid4(), summary, spool)
        for city, dt, text in wanted:
            if loader.should_flush(spool.add(observation_line(city, "imperial", dt, text))):
                flush(spool, loader)
        flush(spool, loader)
        loader.finish()
        taken = time.perf_counter() - started
        assert (summary.stored, summary.problem, os.listdir(folder)) == (len(wanted), None, [])  # noqa: S101
        return taken


def writing(server: pg.Server, database: str) -> Iterator[Row]:
    """Compare the write path with COPY, in turns, each on an empty table."""
    wanted = rows(_ROWS)
    taken: dict[Callable[..., float], list[float]] = {raw_copy: [], write_path: []}
    for _ in range(_ROUNDS):
        for method, seconds in taken.items():
            with server.connect(database) as connection:
                connection.execute("truncate raw.weather_observations")
                connection.execute("checkpoint")
            seconds.append(method(server, database, wanted))
    ours, copy = (_ROWS / statistics.median(taken[method]) for method in (write_path, raw_copy))
    yield Row(
        f"write path, {_ROWS:,} rows",
        f"{ours:,.0f} rows/s",
        f"raw COPY {copy:,.0f} rows/s",
        f"{ours / copy:.0%}",
        "≥ 85%",
        ours >= 0.85 * copy,
    )


def fetching(server: pg.Server, database: str, cities: int) -> Iterator[Row]:
    """Fetch the cities without a rate limit, then again when nothing is new."""
    with server.connect(database) as connection:
        connection.execute("truncate raw.weather_observations")
    with tempfile.TemporaryDirectory() as name, replay_server(Path(name), "--generated", str(cities)) as replay:
        folder = Path(name)
        (folder / "cities.csv").write_text("name,id\n" + "".join(f"City {n},{n}\n" for n in range(1, cities + 1)))
        environment = {
            **os.environ,
            **server.environment(database, "analytics", "analytics"),
            "WEATHER_DATA": name,
            "WEATHER_CITIES_FILE": str(folder / "cities.csv"),
            "OPENWEATHER_BASE_URL": replay.url,
            "OPENWEATHER_API_KEY": KEY,
            "OPENWEATHER_RATE_LIMIT": "0",
            "OPENWEATHER_DEADLINE": "7200",
        }
        for outcome in ("stored", "unchanged"):
            summary, peak = run(environment)
            assert summary[outcome] == cities, summary  # noqa: S101
            rate = cities / summary["seconds"]
            yield Row(
                f"{cities:,} cities, all {outcome}",
                f"{rate:,.0f} requests and rows/s, {summary['seconds']:.0f} s",
                "",
                "",
                "",
                True,
            )
            yield Row(
                f"{cities:,} cities, all {outcome}: peak memory", f"{peak:.0f} MB", "", "", "≤ 300 MB", peak <= 300
            )


def run(environment: dict[str, str]) -> tuple[dict[str, Any], float]:
    """Run one ingestion; return its summary and its peak memory in MB."""
    python = ROOT / ".venv-analytics" / "bin" / "python"
    process = subprocess.Popen(
        [str(python if python.exists() else sys.executable), str(SCRIPTS / "ingest_weather.py")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peak = peak_memory(process.pid)
    output, _ = process.communicate()
    assert process.returncode == 0, output  # noqa: S101
    return json.loads(output.splitlines()[-1]), peak


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    cities = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    with deployed() as (server, database):
        print_table(
            chain(writing(server, database), fetching(server, database, cities) if cities else ()),
            lambda: (
                f"Python {platform.python_version()}, psycopg {psycopg.__version__}, load "
                f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
            ),
        )


if __name__ == "__main__":
    main()
