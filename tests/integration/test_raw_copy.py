"""The raw rows in the lake, on a real PostgreSQL 16 and a real SeaweedFS: all of them, once, also after an outage."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.services.raw_schema import archive_policy
from tests.integration import seaweed
from tests.integration.test_archive import month_ago
from tests.integration.test_lake import AS_OF, give_profiles, query_at
from tests.integration.test_lake import lake as lake
from tests.integration.test_lake import storage as storage
from tests.integration.test_marts import all_samples, insert
from tests.integration.test_numbers import administrator
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import script

pytestmark = [
    pytest.mark.skipif(seaweed.program() is None, reason="SeaweedFS is not in .venv/seaweedfs: ./bootstrap --test"),
    pytest.mark.timeout(600),
]

RAW = """
select id, city, (extract(epoch from ingested_at) * 1000000)::bigint, units, revision, inserted_xid::text::bigint, data
from raw.weather_observations order by ingested_at, id
"""
COPY = """
select id, city, epoch_us(ingested_at) as ingested_at, units, revision, inserted_xid, data
from raw_copy.weather_observations
"""
TEMPERATURES = """
select city, data ->> '$.main.temp' as temp from raw_copy.weather_observations where day = '{day}'
"""  # as in docs/how-to/lake.md
DAYS = "select day, count(*) as rows from raw_copy.weather_observations group by day order by day"


def raw(stack: Stack) -> list[Any]:
    """Return all raw rows in PostgreSQL."""
    with administrator(stack) as connection:
        return connection.execute(RAW).fetchall()


def copied(lake: Stack) -> list[Any]:
    """Return the rows of the copy, as a reader of the last build sees them."""
    rows = query_at(lake, datetime.now(UTC), COPY)
    found = [(*list(row.values())[:-1], json.loads(row["data"])) for row in rows]
    return sorted(found, key=lambda row: (row[2], row[0]))


COPY_NOW = """
import json, os, sys
sys.path[:0] = [{folder!r}]
import dbt_build, raw_source, warehouse
from pathlib import Path
private = warehouse.current(Path({data!r}))
source = raw_source.read_source(None, {{}})
"""


def run(lake: Stack, text: str, copying: bool = False) -> str:
    """Run a Python text with the lake as `lake`, or with the warehouse and the source of a build; return its output."""
    folder = str(Path(script("dbt_build.py")).parent)
    start = COPY_NOW.format(folder=folder, data=str(lake.data)) if copying else ""
    start += "from lake import Lake\nlake = Lake.from_environment()\n"
    done = subprocess.run(
        [str(lake.python), "-c", start + text],
        env=lake.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_now(lake: Stack) -> list[Any]:
    """Copy the raw rows as a build does, without dbt; return the rows of the copy."""
    lake.data.joinpath("history_in").write_text("lake\n")
    text = "with private.connect() as connection: dbt_build.raw_copy.copy_raw(connection, source)\n"
    run(lake, text, copying=True)
    text = f"with lake.connect() as connection: print(json.dumps(connection.execute({COPY!r}).fetchall()))"
    found = [(*row, json.loads(data)) for *row, data in json.loads(run(lake, "import json\n" + text))]
    return sorted(found, key=lambda row: (row[2], row[0]))


def insert_at(stack: Stack, month: datetime, first: int, rows: int) -> None:
    """Store observations in an earlier month."""
    insert(stack, all_samples()[first : first + rows])
    with administrator(stack) as connection:
        following = "(%(month)s::timestamptz + interval '1 month')"
        connection.execute(
            f"create table if not exists raw.old_{month:%Y_%m} (like raw.weather_observations including all)".encode()
        )
        attached = "select from pg_inherits where inhrelid = %s::regclass"
        if not connection.execute(attached, [f"raw.old_{month:%Y_%m}"]).fetchall():
            bounds = connection.execute(f"select %(month)s::timestamptz, {following}".encode(), {"month": month})
            lower, upper = bounds.fetchall()[0]
            connection.execute(
                f"alter table raw.weather_observations attach partition raw.old_{month:%Y_%m} "
                f"for values from ('{lower}') to ('{upper}')".encode()
            )
        connection.execute(
            "update raw.weather_observations set ingested_at = %s + (id %% 48) * interval '1 hour' "
            "where id in (select id from raw.weather_observations order by id desc limit %s)",
            [month, rows],
        )


def files(lake: Stack) -> list[str]:
    """Return the current files of the copy: their folders."""
    with lake.server.connect("lake") as connection:
        found = connection.execute(
            "select file.path from weather.ducklake_data_file as file join weather.ducklake_table using (table_id) "
            "where table_name = 'weather_observations' and file.end_snapshot is null order by 1"
        ).fetchall()
    return [str(path).partition("/")[0] for (path,) in found]


def test_each_build_adds_the_raw_rows_and_merges_the_files_of_a_day(stack: Stack, lake: Stack) -> None:
    insert_at(stack, month_ago(1), 0, 300)
    insert(stack, all_samples()[300:400])
    assert lake.build(*AS_OF)["raw_rows_copied"] == 400
    assert copied(lake) == raw(stack)
    first = datetime.now(UTC)
    insert(stack, all_samples()[400:450])
    assert lake.build(*AS_OF)["raw_rows_copied"] == 50
    assert lake.build(*AS_OF)["raw_rows_copied"] == 0
    assert copied(lake) == raw(stack)
    days = query_at(lake, datetime.now(UTC), DAYS)
    assert len(days) >= 3
    assert files(lake) == [f"day={row['day']}" for row in days], "one file a day"
    assert sum(row["rows"] for row in query_at(lake, first, DAYS)) == 400, "as the builds before"
    temperatures = query_at(lake, first, TEMPERATURES.format(day=days[-1]["day"]))
    assert {type(json.loads(row["temp"])) for row in temperatures} <= {int, float}
    assert len(temperatures) == 100
    # The published file and the tables that dbt makes have no part in it.
    assert lake.query("select count(*) as n from duckdb_tables() where schema_name = 'raw_copy'") == [{"n": 0}]


def test_counts_of_many_months_are_exact_in_the_lake(stack: Stack, lake: Stack) -> None:
    for ago in range(13):
        insert_at(stack, month_ago(ago + 1), 10 * ago, 10)
    give_profiles(lake, stack)
    stack.build(*AS_OF)
    moved = replace(lake, data=stack.data)
    assert json.loads(moved.script("move_target.py", "--data", str(moved.data), "--to", "lake").stdout)["moved"]
    insert(stack, all_samples()[130:140])
    report = moved.build(*AS_OF)
    assert (report["full_refresh"], report["months_landed_again"], report["raw_rows_copied"]) == (False, [], 140)
    # The type of earlier versions, whose values are rounded.
    change = "create or replace table {table} as select * replace (checksum::hugeint as checksum) from {table}"
    statements = [change.format(table=f"warehouse.{name}") for name in ("landing.raw_counts", "raw_copy.months")]
    run(moved, f"with lake.connect() as connection: connection.execute({'; '.join(statements)!r})")
    report = moved.build(*AS_OF)
    assert (report["full_refresh"], report["months_landed_again"]) == (False, [])
    assert moved.build(*AS_OF)["raw_rows_copied"] == 0
    assert copied(moved) == raw(stack)


def test_rows_that_postgresql_lost_or_got_back_are_those_of_the_copy(stack: Stack, lake: Stack) -> None:
    insert_at(stack, month_ago(1), 0, 100)
    insert(stack, all_samples()[100:200])
    assert copy_now(lake) == raw(stack)
    with administrator(stack) as connection:
        connection.execute("delete from raw.weather_observations where id % 10 = 3")
    insert(stack, all_samples()[200:230])
    everything = copy_now(lake)
    assert everything == raw(stack)
    assert 190 < len(everything) < 230
    # Retention: the copy keeps what PostgreSQL drops.
    with administrator(stack) as connection:
        connection.execute(f"drop table raw.old_{month_ago(1):%Y_%m}".encode())
        connection.execute("insert into raw.dropped_months (month) values (%s)", [month_ago(1)])
    assert copy_now(lake) == everything
    assert len(raw(stack)) < len(everything)


def test_archived_months_are_copied_from_their_files(stack: Stack, lake: Stack) -> None:
    insert_at(stack, month_ago(3), 0, 60)
    insert(stack, all_samples()[60:90])
    everything = raw(stack)
    with administrator(stack) as connection:
        connection.execute(archive_policy(2).sql.encode())
    report = lake.build(*AS_OF, WEATHER_ARCHIVE_MONTHS="2")
    assert report["month_archived"] == f"{month_ago(3):%Y-%m}"
    assert copied(lake) == everything
    assert lake.build(*AS_OF, WEATHER_ARCHIVE_MONTHS="2")["raw_rows_copied"] == 0
    # A copy that begins later has them, too.
    drop = "drop table warehouse.raw_copy.months; drop table warehouse.raw_copy.weather_observations"
    run(lake, f"with lake.connect() as connection: connection.execute('{drop}')")
    assert lake.build(*AS_OF, WEATHER_ARCHIVE_MONTHS="2")["raw_rows_copied"] == 90
    assert copied(lake) == everything


def test_outage_of_the_storage_while_the_rows_are_copied_is_caught_up(
    stack: Stack, lake: Stack, storage: seaweed.Storage
) -> None:
    insert(stack, all_samples()[:100])
    copy_now(lake)
    insert(stack, all_samples()[100:150])
    storage.stop()
    try:
        report = json.loads(run(lake, "print(json.dumps(dbt_build._copy_raw(private, source)))", copying=True))
        assert list(report) == ["raw_copy_problem"]
    finally:
        storage.start()
    found = copy_now(lake)
    assert (len(found), found) == (150, raw(stack))


# Each child is killed at its next call of DuckDB, and after the commit of a month from the first one again. Before, it
# looks for a row that is there twice.
KILLED = """
import signal, duckdb, raw_copy
progress, record = Path(private.folder) / "progress", raw_copy._record
def recording(*arguments):
    record(*arguments)
    Counted.recorded = True
raw_copy._record = recording
class Counted:
    recorded = False
    def __init__(self, inner): self._inner = inner
    def __getattr__(self, name):
        found = getattr(self._inner, name)
        if not callable(found):
            return found
        def call(*arguments, **options):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = found(*arguments, **options)
            if name == "commit" and Counted.recorded:
                progress.touch()
            return answer
        return call
TWICE = "select count(*) - count(distinct (ingested_at, id)) from raw_copy.weather_observations"
kills = number = 0
while number < 100:
    child = os.fork()
    if not child:
        left = number
        with private.connect() as connection:
            if connection.execute(raw_copy._TYPE, ["warehouse"]).fetchall():
                assert connection.execute(TWICE).fetchall() == [(0,)]
            raw_copy.copy_raw(Counted(connection), source)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, status
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    kills += 1
    number = 0 if progress.exists() else number + 1
    progress.unlink(missing_ok=True)
print(kills)
"""


def test_killed_anywhere_no_raw_row_is_missing_and_none_is_there_twice(stack: Stack, lake: Stack) -> None:
    insert_at(stack, month_ago(1), 0, 50)
    insert(stack, all_samples()[50:100])
    lake.data.joinpath("history_in").write_text("lake\n")
    assert int(run(lake, KILLED, copying=True)) > 25, "the first copy"
    insert(stack, all_samples()[100:130])
    assert int(run(lake, KILLED, copying=True)) > 8, "new rows of one month"
    assert copy_now(lake) == raw(stack)
