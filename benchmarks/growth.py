"""Benchmark of the growth: `python -m benchmarks.growth [builds] [cities]`; default: 1,000 hourly builds of 100 cities.

Each build gets an observation of each city, and one of 20 is replaced later. The private warehouse is compared with a
fresh copy of the same rows. Builds are forks of one process that has imported dbt, so that a thousand take minutes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from psycopg import Connection

from benchmarks.ingest import deployed
from benchmarks.marts import Warehouse, create_warehouse
from benchmarks.table import Row, numbers, print_table
from tests.integration import pg
from tests.scripts import ROOT, SCRIPTS

_BUILDS, _CITIES, _CHECKS = 1_000, 100, 40
_PYTHON = str(ROOT / ".venv-analytics" / "bin" / "python")
# Reads a time a line, builds as of that time in a fork, and prints the exit status.
_BUILDER = """
import os, sys
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
import dbt_build
import dbt_runner
from dbt.cli.main import dbtRunner
{preparation}
def in_fork(work):
    child = os.fork()
    if not child:
        os._exit(work())
    return SimpleNamespace(returncode=os.waitpid(child, 0)[1])

def run(command, env, **_):
    os.environ.update(env)
    models = [*command[1:], "--exclude-resource-type", "test"]  # tests write nothing
    return in_fork(lambda: 0 if dbtRunner(manifest=manifest).invoke(models).success else 1)

data = sys.argv[2]
os.environ.update(DBT_TARGET_PATH=data + "/target", DBT_LOG_PATH=data + "/logs")
project = str(dbt_build.ROOT / "dbt")
parsed = dbtRunner().invoke(["--quiet", "parse", "--project-dir", project, "--profiles-dir", data])
manifest = parsed.result
dbt_runner.subprocess = SimpleNamespace(run=run)
# In a program without a file, DuckDB prints a progress bar on standard output.
results = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    sys.argv = ["dbt_build.py", "--data", data, "--profiles", data, "--as-of", line.strip()]
    print(in_fork(dbt_build.main).returncode, file=results, flush=True)
"""
_FRESH_COPY = """
import duckdb, os, sys
source, copy = sys.argv[1:]
with duckdb.connect() as connection:
    connection.execute(f"attach '{source}' as source (read_only); attach '{copy}' as fresh")
    connection.execute("copy from database source to fresh")
print(os.path.getsize(source), os.path.getsize(copy))
os.unlink(copy)
"""
_HOUR = """
with hour as (select %(now)s::timestamptz as at), new as (
    select 'City ' || city as city, hour.at as ingested_at, 0 as revision, jsonb_build_object(
        'dt', extract(epoch from hour.at)::bigint - city %% 300, 'id', city, 'name', 'City ' || city,
        'main', jsonb_build_object('humidity', city %% 101, 'pressure', 1000 + city %% 30, 'temp',
                                   30 + (extract(epoch from hour.at)::bigint / 36 + city * 104729) %% 5000 / 100.0),
        'wind', jsonb_build_object('speed', city %% 30, 'deg', city %% 360),
        'rain', jsonb_build_object('1h', city %% 3),
        'coord', jsonb_build_object('lon', city * 0.01, 'lat', 40.7)) as data
    from generate_series(1, %(cities)s) as city, hour
), replaced as (
    select city, hour.at, revision + 1, data || '{"visibility": 5000}'
    from raw.weather_observations as earlier, hour
    where earlier.ingested_at >= hour.at - interval '30 hours'
        and earlier.id %% 20 = extract(hour from hour.at)::int %% 20
        and not exists (select from raw.weather_observations as newer
                        where newer.city = earlier.city and newer.data ->> 'dt' = earlier.data ->> 'dt'
                            and newer.revision > earlier.revision)
    limit %(cities)s / 20
)
insert into raw.weather_observations (city, ingested_at, revision, data)
select * from new union all select * from replaced
"""


@dataclass(frozen=True)
class Sizes:
    """The bytes of a warehouse, of a fresh copy of its rows, and of dbt's logs and target."""

    warehouse: int
    fresh: int
    logs: int
    target: int

    @property
    def ratio(self) -> float:
        """The warehouse compared with the fresh copy."""
        return self.warehouse / self.fresh


def measure(data: Path) -> Sizes:
    """Measure the sizes; no build may run."""
    command = [_PYTHON, "-c", _FRESH_COPY, str(data / "warehouse.duckdb"), str(data / "copy")]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    warehouse, fresh = map(int, output.split())
    return Sizes(warehouse, fresh, _bytes_in(data / "logs"), _bytes_in(data / "target"))


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def builder(warehouse: Warehouse, preparation: str = "", **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start the process that builds, after it has run some lines of Python."""
    process = subprocess.Popen(
        [_PYTHON, "-c", _BUILDER.format(preparation=preparation), str(SCRIPTS), str(warehouse.data)],
        env=warehouse.environment | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(warehouse.data / "builder.log").open("w"),
        text=True,
    )
    assert process.stdin  # noqa: S101
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def insert_hour(connection: Connection[tuple[object, ...]], now: datetime, cities: int) -> None:
    """Insert an observation of each city at a full hour, the replaced ones, and the start of their ingestion."""
    connection.execute(_HOUR.encode(), {"now": now, "cities": cities})
    connection.execute("insert into raw.ingestion_starts values (gen_random_uuid(), %s)", (now,))


def build(process: subprocess.Popen[str], warehouse: Warehouse, hour: datetime) -> None:
    """Build as of a minute after a full hour. Raises SystemExit with its output if it fails."""
    assert process.stdin  # noqa: S101
    assert process.stdout  # noqa: S101
    print((hour + timedelta(minutes=1)).isoformat(), file=process.stdin, flush=True)
    if (status := process.stdout.readline().strip()) != "0":
        log = (warehouse.data / "builder.log").read_text()[-3000:]
        raise SystemExit(f"{log}\nThe build ended with status {status or 'unknown: its process is gone'}.")


def growth(server: pg.Server, database: str, builds: int, cities: int) -> Iterator[Row]:
    """Build again and again, and compare the sizes."""
    begin = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=builds)
    found: list[Sizes] = []
    with ExitStack() as stack:
        warehouse = create_warehouse(stack, server, database)
        connection = stack.enter_context(server.connect(database))
        process = stack.enter_context(builder(warehouse))
        for number in range(builds):
            now = begin + timedelta(hours=number)
            insert_hour(connection, now, cities)
            build(process, warehouse, now)
            if (number + 1) % max(builds // _CHECKS, 1) == 0:
                found.append(measure(warehouse.data))
                print(f"{number + 1} builds: {found[-1]}, {found[-1].ratio:.2f}", file=sys.stderr, flush=True)
    last, most = found[-1], max(found, key=lambda sizes: sizes.ratio)
    yield Row(
        f"warehouse after {builds:,} builds, {cities} cities",
        f"{last.warehouse / 1e6:.1f} MB",
        f"a fresh copy: {last.fresh / 1e6:.1f} MB",
        f"{last.ratio:.2f}; at most {most.ratio:.2f}",
        "≤ 1.3",
        most.ratio <= 1.3,
    )
    for name in ("logs", "target"):
        sizes = [getattr(each, name) / 1e6 for each in found]
        first = f"after the first builds: {sizes[0]:.1f} MB"
        yield Row(f"dbt's {name}", f"{max(sizes):.1f} MB", first, "", "≤ 16 MB", max(sizes) <= 16)


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    builds, cities = numbers(_BUILDS, _CITIES)
    with deployed() as (server, database):
        print_table(growth(server, database, builds, cities))


if __name__ == "__main__":
    main()
