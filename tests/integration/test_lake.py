"""The weather in a DuckLake, on a real PostgreSQL 16 and a real SeaweedFS: compared with the same weather in a file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.model import DatabaseGrant
from homelab.services.database_grants import schema_of
from tests.integration import seaweed
from tests.integration.conftest import write_profiles
from tests.integration.test_marts import all_samples, check_upgrade, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import script

from contract import EXIT  # isort: skip

pytestmark = [
    pytest.mark.skipif(seaweed.program() is None, reason="SeaweedFS is not in .venv/seaweedfs: ./bootstrap --test"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def storage() -> Iterator[seaweed.Storage]:
    with seaweed.storage() as running:
        yield running


@pytest.fixture
def lake(stack: Stack, storage: seaweed.Storage, extensions: Path, tmp_path: Path) -> Iterator[Stack]:
    """The same raw rows as `stack`, another folder of data, and a lake."""
    data = tmp_path / "lake"
    data.mkdir()
    write_profiles(data, extensions, "1GB", lake=True)
    with stack.server.database("lake") as database:
        with stack.server.connect(database) as connection:
            connection.execute(schema_of(DatabaseGrant("lake", "dbt", "own", "weather")).sql.encode())  # type: ignore[arg-type]
        variables = {
            **storage.variables,
            "S3_URL": f"s3://pipeline-weather/{tmp_path.name.replace('_', '-')}",
            "LAKE_SCHEMA": "weather",
            "DUCKDB_EXTENSIONS": str(extensions),
            "LAKE_RETENTION_SECONDS": "86400",
        }
        yield replace(stack, data=data, variables=variables)


AS_OF = ("--as-of", "2013-06-01T00:00:00+00:00")
DAYS = "select sum(observations)::bigint as observations from weather_daily"


def compare(stack: Stack, lake: Stack, *words: str) -> dict[str, int]:
    """Compare all rows of both published files, or of `marts`; return the number of rows of each table."""
    program = Path(__file__).with_name("compare_published.py").read_text()
    output = stack.script_of(
        program, str(lake.data / "published.duckdb"), *words, path=str(stack.data / "published.duckdb")
    )
    counts: dict[str, int] = json.loads(output)
    return counts


def give_profiles(lake: Stack, stack: Stack) -> None:
    """Give a file's pipeline the profiles of one with `target: lake`."""
    text = (lake.data / "profiles.yml").read_text()
    (stack.data / "profiles.yml").write_text(text.replace(str(lake.data), str(stack.data)))


def query_at(lake: Stack, time: datetime, sql: str, expect: int = 0) -> Any:
    """Return the rows of a query of the lake at a time, or the error."""
    done = lake.script("query.py", "--at", time.isoformat(), sql, expect=expect)
    return done.stderr if expect else json.loads(done.stdout)


def in_lake(lake: Stack, statement: str, retention: int = 86400) -> Any:
    """Return the value of a Python expression with the open lake as `lake`, and a connection."""
    text = (
        "import json, sys; from lake import Lake; lake = Lake.from_environment()\n"
        f"with lake.connect() as connection: print(json.dumps({statement}))"
    )
    done = subprocess.run(
        [str(lake.python), "-c", text],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=lake.environment | {"LAKE_RETENTION_SECONDS": str(retention)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def snapshots(lake: Stack) -> int:
    """Return the number of snapshots."""
    found: int = in_lake(
        lake, "connection.execute(\"select count(*) from ducklake_snapshots('warehouse')\").fetchall()"
    )[0][0]
    return found


def rows_in_catalog(lake: Stack) -> list[str]:
    """Return the tables of the catalog that have rows of the lake's tables."""
    with lake.server.connect("lake") as connection:
        names = connection.execute(
            "select tablename from pg_tables where schemaname = 'weather' and tablename ~ '^ducklake_inlined_.*[0-9]$'"
        ).fetchall()
        return [
            name for (name,) in names if connection.execute(f"select from weather.{name} limit 1".encode()).fetchall()
        ]


def test_builds_have_the_same_rows_as_those_of_the_file(stack: Stack, lake: Stack) -> None:
    samples = all_samples()
    insert(stack, samples[:3000])
    for each in (stack, lake):
        assert each.build(*AS_OF)["full_refresh"]
    found = compare(stack, lake)
    assert found["landing_weather"] == 3000
    assert not (lake.data / "warehouse.duckdb").exists()
    # New and repeated observations, and an exclusion: an increment.
    insert(stack, samples[2900:5000])
    period = ("--from", "2013-01-03", "--to", "2013-01-04", "--reason", "test", "--by", "test")
    stack.script("exclusions.py", "add", "--city", "Newark,US", *period)
    for each in (stack, lake):
        assert not each.build(*AS_OF)["full_refresh"]
    more = compare(stack, lake)
    assert more["landing_weather"] == 5100
    assert more["weather_hourly"] > found["weather_hourly"]
    for each in (stack, lake):
        assert each.build("--full-refresh", *AS_OF)["full_refresh"]
    assert compare(stack, lake)["weather_hourly"] == more["weather_hourly"]
    assert rows_in_catalog(lake) == []
    assert in_lake(lake, "lake.rounded_columns()") == []
    assert lake.variables
    logged = "".join(path.read_text() for path in lake.data.glob("logs/dbt.log*"))
    assert lake.environment["S3_SECRET_ACCESS_KEY"] not in logged


def test_hourly_build_after_an_upgrade_adds_columns_to_the_whole_history(lake: Stack, tmp_path: Path) -> None:
    check_upgrade(lake, tmp_path)
    begin = datetime.now(UTC)
    days = query_at(lake, begin, "select count(*) as days, count(wind_hours_observed) as known from weather_daily")
    assert days[0]["days"] == days[0]["known"] > 0


def test_query_at_a_time_reads_an_earlier_build_and_never_half_of_one(stack: Stack, lake: Stack) -> None:
    samples = all_samples()
    insert(stack, samples[:2000])
    before = datetime.now(UTC)
    lake.build(*AS_OF)
    first, rows = datetime.now(UTC), lake.query(DAYS)
    insert(stack, samples[2000:4000])
    # Readers during the build see the first one.
    build = subprocess.Popen(
        [str(lake.python), script("dbt_build.py"), "--data", str(lake.data), "--profiles", str(lake.data), *AS_OF],
        env=lake.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen, reads = [], 0
    while build.poll() is None:
        seen.append((query_at(lake, first, DAYS), lake.query(DAYS)))
        reads += build.poll() is None
    assert build.returncode == 0
    assert reads >= 2
    assert all(each[0] == rows for each in seen)
    now = datetime.now(UTC)
    later = query_at(lake, now, DAYS)
    assert later == lake.query(DAYS) != rows
    assert query_at(lake, first, DAYS) == rows
    # A view, too, and the schema of staging without its name.
    assert query_at(lake, first, "select count(*) > 0 as has_records from weather_records") == [{"has_records": True}]
    assert query_at(lake, first, "select count(*) as rows from stg_weather")[0]["rows"] > 0
    assert "the oldest is of" in query_at(lake, before, DAYS, expect=EXIT.nothing_published)
    for refused in (
        f"from read_text('{lake.data}/profiles.yml')",
        "select * from glob('s3://**')",
        "copy (select 1) to 's3://pipeline-weather/other.parquet'",
        f"copy (select 1) to '{lake.environment['S3_URL']}/lake/other.parquet'",
        "delete from weather_daily",
        "call postgres_execute('__ducklake_metadata_warehouse', 'drop schema weather cascade')",
    ):
        assert query_at(lake, now, refused, expect=EXIT.failed).startswith("error: ")


def test_maintenance_expires_builds_and_deletes_their_files(stack: Stack, lake: Stack) -> None:
    samples = all_samples()
    times = []
    for number in range(3):
        insert(stack, samples[number * 500 : number * 500 + 500])
        lake.build(*AS_OF)
        times.append(datetime.now(UTC))
    # A build makes dozens of snapshots; each build's last one stays.
    assert snapshots(lake) <= 3 + 4
    rows = [query_at(lake, time, DAYS) for time in times]
    assert len({str(each) for each in rows}) == 3
    files = 'connection.execute("select count(*) from glob(\'" + lake.url + "**\')").fetchall()'
    stored = in_lake(lake, files)[0][0]
    in_lake(lake, "lake.maintain()", retention=0)
    assert snapshots(lake) <= 2
    assert query_at(lake, times[-1], DAYS) == rows[-1]
    assert "the oldest is of" in query_at(lake, times[0], DAYS, expect=EXIT.nothing_published)
    # Files that no snapshot needs are deleted an hour later.
    with stack.server.connect("lake") as connection:
        connection.execute(
            "update weather.ducklake_files_scheduled_for_deletion set schedule_start = now() - interval '2 hours'"
        )
    in_lake(lake, "lake.maintain()", retention=0)
    assert in_lake(lake, files)[0][0] < stored
    assert query_at(lake, times[-1], DAYS) == rows[-1]
    insert(stack, samples[1500:2000])
    assert lake.build(*AS_OF)["status"] == "success"


VALUES = {
    "bigint": "9007199254740993",
    "ubigint": "9007199254740993",
    "hugeint": "9007199254740993",
    "uhugeint": "9007199254740993",
    "decimal(38, 0)": "12345678901234567890123456789012345678",
    "double": "0.1",
    "date": "'2026-02-28'",
    "time": "'01:02:03.123456'",
    "timetz": "'01:02:03.123456+02'",
    "timestamp": "'2026-01-01 00:00:00.123456'",
    "timestamptz": "'2026-01-01 00:00:00.123456+01'",
    "timestamp_ns": "'2026-01-01 00:00:00.123456789'",
    "interval": "'1 month 2 days 00:00:00.000001'",
    "json": """'{"a": 0.1}'""",
    "uuid": "'2fa2ab5b-2b3b-4b8a-9f5f-2fa2ab5b2b3b'",
    "varchar[]": "['a', null]",
    "struct(a hugeint)": "{a: 9007199254740993}",
}
ROUNDED = {"hugeint", "uhugeint", "timetz", "interval", "struct(a hugeint)"}


def test_types_whose_values_the_lake_rounds_are_named(stack: Stack, lake: Stack) -> None:
    columns = ", ".join(f"{value}::{kind} as c{number}" for number, (kind, value) in enumerate(VALUES.items()))
    same = ", ".join(f"stored.c{number} = kept.c{number}" for number in range(len(VALUES)))
    sql = f"create table kept as select {columns}; select {same} from kept, (select {columns}) as stored"  # noqa: S608
    kept, named = in_lake(lake, f"(connection.execute({sql!r}).fetchone(), lake.rounded_columns())")
    assert {kind for kind, equal in zip(VALUES, kept, strict=True) if not equal} == ROUNDED
    numbers = {number for number, kind in enumerate(VALUES) if kind in ROUNDED}
    assert {text.partition(" ")[0] for text in named} == {f"main.kept.c{number}" for number in numbers}
    insert(stack, all_samples()[:100])
    done = lake.script("dbt_build.py", "--data", str(lake.data), "--profiles", str(lake.data), *AS_OF)
    assert f"warning: the lake rounds the values of {named[0]}, " in done.stderr


def test_maintenance_merges_small_files_and_leaves_large_ones(lake: Stack) -> None:
    files = "connection.execute(\"select data_file from ducklake_list_files('warehouse', 'numbers')\").fetchall()"
    insert = "insert into numbers select random() from range({});"
    begin = "create table numbers (number double);"
    in_lake(lake, f'connection.execute("{begin}{insert.format(2_000_000)}").fetchall()')
    large = in_lake(lake, files)
    for _ in range(2):
        for _ in range(2):
            in_lake(lake, f'connection.execute("{insert.format(1000)}").fetchall()')
        in_lake(lake, "lake.maintain()")
        found = in_lake(lake, files)
        assert len(found) == 2
        assert large[0] in found
    assert in_lake(lake, 'connection.execute("select count(*) from numbers").fetchall()') == [[2_004_000]]


def test_outage_of_the_storage_fails_builds_and_keeps_the_published_file(
    stack: Stack, lake: Stack, storage: seaweed.Storage
) -> None:
    samples = all_samples()
    insert(stack, samples[:2000])
    lake.build(*AS_OF)
    rows, published = lake.query(DAYS), (lake.data / "published.duckdb").resolve()
    storage.stop()
    try:
        insert(stack, samples[2000:4000])
        report = lake.build(*AS_OF, expect=EXIT.failed)
        assert report["transient"]
        assert [each["message"][:31] for each in report["problems"]] == ["Cannot reach the object storage"]
        assert lake.query(DAYS) == rows
        assert (lake.data / "published.duckdb").resolve() == published
    finally:
        storage.start()
    assert lake.build(*AS_OF)["status"] == "success"
    stack.build(*AS_OF)
    assert compare(stack, lake, "marts")["weather_hourly"] > 3000


def test_outage_during_a_build_is_one_error(stack: Stack, lake: Stack, storage: seaweed.Storage) -> None:
    samples = all_samples()
    insert(stack, samples[:2000])
    lake.build(*AS_OF)
    rows = lake.query(DAYS)
    insert(stack, samples[2000:4000])
    build = subprocess.Popen(
        [str(lake.python), script("dbt_build.py"), "--data", str(lake.data), "--profiles", str(lake.data), *AS_OF],
        env=lake.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert build.stdout
    assert build.stderr
    next(line for line in build.stderr if "of incremental" in line or "OK created" in line)
    storage.stop()
    try:
        output, _ = build.communicate(timeout=120)
        assert build.returncode == EXIT.failed, output
        report = json.loads(output.splitlines()[-1])
        assert [each["message"][:31] for each in report["problems"]] == ["Cannot reach the object storage"]
        assert lake.query(DAYS) == rows
    finally:
        storage.start()
    assert lake.build(*AS_OF)["status"] == "success"
    stack.build(*AS_OF)
    assert compare(stack, lake, "marts")["weather_hourly"] > 3000


def test_history_moves_to_the_lake_and_back(stack: Stack, lake: Stack) -> None:
    samples = all_samples()
    insert(stack, samples[:2000])
    give_profiles(lake, stack)
    stack.build(*AS_OF)
    rows = stack.query(DAYS)
    moved = replace(lake, data=stack.data)
    move = ("move_target.py", "--data", str(moved.data), "--to")
    assert "no lake" in stack.script(*move, "lake", expect=EXIT.bad_input).stderr
    # With access to the lake, builds stay in the file until the move.
    assert (
        "move" in moved.script("dbt_build.py", "--data", str(moved.data), "--profiles", str(moved.data), *AS_OF).stderr
    )
    outcome = json.loads(moved.script(*move, "lake").stdout)
    assert outcome["moved"]
    assert outcome["rows"] > 2000
    assert query_at(moved, datetime.now(UTC), DAYS) == rows
    assert not json.loads(moved.script(*move, "lake").stdout)["moved"]
    # The next build continues in the lake, without landing everything again.
    size = (moved.data / "warehouse.duckdb").stat().st_mtime_ns
    insert(stack, samples[2000:3000])
    assert not moved.build(*AS_OF)["full_refresh"]
    assert (moved.data / "warehouse.duckdb").stat().st_mtime_ns == size
    assert compare(moved, moved)["landing_weather"] == 3000
    # Without access, the build names the way out instead of starting again in the old file.
    report = stack.build(*AS_OF, expect=EXIT.build_failed)
    assert "target: lake" in report["problems"][0]["message"]
    rows = moved.query(DAYS)
    assert json.loads(moved.script(*move, "file").stdout)["moved"]
    insert(stack, samples[3000:3500])
    assert not stack.build(*AS_OF)["full_refresh"]
    assert stack.query(DAYS) != rows
    assert compare(stack, stack)["landing_weather"] == 3500


def test_move_switches_nothing_if_a_row_differs(stack: Stack, lake: Stack) -> None:
    insert(stack, all_samples()[:500])
    give_profiles(lake, stack)
    stack.build(*AS_OF)
    moved = replace(lake, data=stack.data)
    program = Path(script("move_target.py")).read_text()
    # A copy that changes values on its way.
    change = "update warehouse.main.weather_daily set rain_mm = 99 where city = 'Newark,US'"
    line = 'copy_all(connection, "source", CATALOG)'
    damaged = program.replace(f"{line}\n", f'{line}; connection.execute("{change}")\n')
    assert damaged != program
    done = subprocess.run(
        [str(moved.python), "-c", damaged, "--data", str(moved.data), "--to", "lake"],
        env=moved.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == EXIT.failed, done.stdout + done.stderr
    assert '"weather_daily" has ' in done.stderr
    assert "other rows" in done.stderr
    assert not (moved.data / "history_in").exists()


def test_restore_gives_all_tables_the_published_rows(stack: Stack, lake: Stack) -> None:
    insert(stack, all_samples()[:500])
    lake.build(*AS_OF)
    rows = query_at(lake, datetime.now(UTC), DAYS)
    damage = (
        "[str(connection.execute('delete from weather_daily; create table main.other (x integer); "
        "drop table weather_hourly'))[:0], lake.restore()]"
    )
    in_lake(lake, damage)
    now = f"[connection.execute('{DAYS}').fetchall(), connection.execute('from weather_hourly').fetchall() != []]"
    assert in_lake(lake, now) == [[[rows[0]["observations"]]], True]
    assert in_lake(lake, "connection.execute('show tables').fetchall()").count(["other"]) == 0
    insert(stack, all_samples()[500:900])
    assert not lake.build(*AS_OF)["full_refresh"]
    stack.build(*AS_OF)
    assert compare(stack, lake, "marts")["weather_hourly"] >= 900
