"""Old months of raw rows in object storage: moved, read by rebuilds, moved back, and killed anywhere.

A folder stands for the object storage, as the files are the same; test_lab_lake.py has the real one.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homelab.services.raw_schema import archive_policy
from tests import odd_json
from tests.integration.test_numbers import administrator, answer, at
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import script

pytestmark = pytest.mark.timeout(300)
KEPT = 2  # whole months in PostgreSQL
EVERYTHING = "from landing_weather order by ingested_at, id"
RAW = """
select id, city, ingested_at, units, revision, inserted_xid, data from raw.weather_observations order by ingested_at, id
"""


# Known and unknown windows, which are read by SQL of PostgreSQL and of DuckDB.
RAIN = ({"1h": 0.5}, {"24h": 6.0}, {}, None, {"3h": None}, "{}", [], {"3h": 1.0, "24h": 6.0}, 5)


def month_ago(months: int) -> datetime:
    """Return the first day of a month before this one."""
    first = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    for _ in range(months):
        first = (first - timedelta(days=1)).replace(day=1)
    return first


OLD = [month_ago(5), month_ago(4), month_ago(3)]  # due
RECENT = [month_ago(2), month_ago(1)]


@pytest.fixture
def full(stack: Stack) -> Stack:
    """A stack with rows of six months, odd ones among them, and its first build."""
    chance = random.Random(1)  # noqa: S311 - damage for tests
    with administrator(stack) as connection:
        for month in (*OLD, *RECENT):
            following = (month + timedelta(days=40)).replace(day=1)
            connection.execute(
                f"create table raw.{month:weather_observations_%Y_%m} partition of raw.weather_observations "
                f"for values from ('{month:%Y-%m-%d} 00:00+00') to ('{following:%Y-%m-%d} 00:00+00')".encode()
            )
        for number, month in enumerate((*OLD, *RECENT, month_ago(0))):
            for hour in range(30):
                document = answer(at("2026-03-10 00:00") + (number * 100 + hour) * 3600, rain=RAIN[hour % len(RAIN)])
                text = odd_json.dumped(odd_json.mutate(chance, document, chance.choice((0, 0, 2))))
                try:
                    connection.execute(
                        "insert into raw.weather_observations (city, units, data, ingested_at) values (%s, %s, %s, %s)",
                        (f"city|{number}", chance.choice(("metric", None)), text, month + timedelta(hours=hour)),
                    )
                except psycopg.DataError:  # PostgreSQL does not take it
                    continue
        connection.execute(archive_policy(KEPT).sql.encode())
    stack.build(**settings(stack, months=0))
    return stack


def settings(stack: Stack, months: int = KEPT) -> dict[str, str]:
    """Return the variables of the archive."""
    extensions = next(stack.data.glob("profiles.yml")).read_text().partition("extension_directory: ")[2].split()[0]
    return {
        "S3_URL": str(stack.data / "bucket"),
        "WEATHER_ARCHIVE_MONTHS": str(months),
        "DUCKDB_EXTENSIONS": extensions,
    }


def raw(stack: Stack) -> list[Any]:
    """Return all raw rows in PostgreSQL."""
    with administrator(stack) as connection:
        return connection.execute(RAW).fetchall()


def archived(stack: Stack) -> list[str]:
    """Return the archived months."""
    with administrator(stack) as connection:
        found = connection.execute("select to_char(month, 'YYYY-MM') from raw.archived_months order by 1").fetchall()
    return [month for (month,) in found]


def landed(stack: Stack) -> list[dict[str, Any]]:
    """Return the landed rows, without the number of their build."""
    return [{name: value for name, value in row.items() if name != "landed_in"} for row in stack.query(EVERYTHING)]


def months(found: Sequence[datetime]) -> list[str]:
    """Return months as YYYY-MM."""
    return [f"{month:%Y-%m}" for month in found]


def files(stack: Stack) -> list[Path]:
    """Return the files of the archive."""
    return sorted((stack.data / "bucket" / "raw" / "weather_observations").glob("*"))


def restore(stack: Stack) -> subprocess.CompletedProcess[str]:
    """Move all months back, as the how-to does."""
    with administrator(stack) as connection:
        connection.execute(archive_policy(0).sql.encode())
    return stack.script("archive.py", "--restore", expect=None, **settings(stack, months=0))


def test_old_months_move_one_a_build_and_rebuilds_read_both(full: Stack) -> None:
    before, known = raw(full), landed(full)
    assert len(known) == len(before) > 100
    moved = [full.build(**settings(full)).get("month_archived") for _ in range(4)]
    assert moved == [*months(OLD), None]
    assert archived(full) == months(OLD)
    assert [file.name[:7] for file in files(full)] == months(OLD)
    assert raw(full) == [row for row in before if row[2] >= RECENT[0]]
    assert landed(full) == known
    assert full.build(**settings(full))["months_landed_again"] == []
    full.build("--full-refresh", **settings(full))
    assert landed(full) == known
    (full.data / "warehouse.duckdb").unlink()
    full.build(**settings(full))
    assert landed(full) == known
    assert not (full.data / "archived").exists()

    done = restore(full)
    assert json.loads(done.stdout) == months(OLD), done.stderr
    assert raw(full) == before
    assert archived(full) == []
    report = full.build(**settings(full, months=0))
    assert (report["full_refresh"], report["months_landed_again"]) == (False, [])
    assert landed(full) == known


def test_files_with_other_rows_or_none_stop_a_rebuild_only(full: Stack) -> None:
    full.build(**settings(full))
    (file,) = files(full)
    known, whole = landed(full), file.read_bytes()
    change = "import duckdb, sys; duckdb.sql(f\"copy (from read_parquet('{sys.argv[1]}') limit 3) to '{sys.argv[1]}'\")"
    for break_file, words in (
        (lambda: full.script_of(change, path=str(file)), "has other rows"),
        (file.unlink, "Cannot read the archived month"),
    ):
        break_file()
        report = full.build("--full-refresh", expect=None, **settings(full, months=0))
        assert report["status"] == "failed"
        assert words in str(report["problems"])
        assert landed(full) == known, "the published file is untouched"
        assert restore(full).returncode == 1
        assert archived(full) == months(OLD[:1])
        assert full.build(**settings(full, months=0))["status"] == "success", "an increment reads no archived rows"
        file.write_bytes(whole)
    assert restore(full).returncode == 0


def test_unreachable_storage_leaves_the_rows_and_the_build_is_published(full: Stack) -> None:
    before = raw(full)
    (full.data / "bucket").write_text("no folder")
    report = full.build(**settings(full))
    assert report["status"] == "success"
    assert report["archive_problem"]
    assert raw(full) == before
    (full.data / "bucket").unlink()
    assert full.build(**settings(full))["month_archived"] == months(OLD)[0]


def test_no_month_moves_until_the_clock_has_been_steady_for_a_week(full: Stack) -> None:
    before = raw(full)
    with administrator(full) as connection:
        (rows, checksum) = connection.execute("select * from upkeep.month_checksum(%s)", (OLD[0].date(),)).fetchall()[0]
    for seen, steady_since, moved in (
        ("0 days", "-6 days", None),
        ("-2 months", "-10 years", None),  # the clock has jumped, and nothing has noticed it yet
        ("2 hours", "-10 years", None),
        ("0 days", "-8 days", months(OLD)[0]),
    ):
        with administrator(full) as connection:
            connection.execute(
                "update upkeep.clock set seen = now() + %s::interval, steady_since = now() + %s::interval",
                (seen, steady_since),
            )
        if moved is None:
            with (
                full.server.connect(full.database, "analytics", "analytics") as connection,
                pytest.raises(psycopg.Error, match="is not due to be archived"),
            ):
                connection.execute("select upkeep.archive(%s, 'x', %s, %s)", (OLD[0].date(), rows, checksum))
        report = full.build(**settings(full))
        assert (report.get("month_archived"), report.get("archive_problem")) == (moved, None)
        assert (raw(full) == before) == (moved is None)


def test_only_due_months_with_the_same_rows_can_be_removed(full: Stack) -> None:
    cases = (
        (RECENT[0], 30, "is not due to be archived"),
        (OLD[0] + timedelta(days=1), 30, "is not due to be archived"),
        (OLD[0], 1, "are not those of its copy"),
    )
    for month, rows, words in cases:
        with (
            full.server.connect(full.database, "analytics", "analytics") as connection,
            pytest.raises(psycopg.Error, match=words),
        ):
            connection.execute("select upkeep.archive(%s, 'x', %s, 0)", (month.date(), rows))
    for statement in (
        "insert into raw.archived_months values ('2020-01-01', 'x', 1, 1)",
        "update upkeep.archive_policy set months = 1",
        "select upkeep.unarchive('2020-01-01')",  # while months are archived
    ):
        with full.server.connect(full.database, "analytics", "analytics") as connection, pytest.raises(psycopg.Error):
            connection.execute(statement.encode())


@pytest.mark.parametrize("action", ["archive", "restore"])
def test_killed_at_any_point_nothing_is_lost_and_nothing_is_there_twice(full: Stack, action: str) -> None:
    """A run is killed before each of its calls of DuckDB and PostgreSQL in turn."""
    before, known = raw(full), landed(full)
    if action == "restore":
        for _ in OLD:
            full.build(**settings(full))
        with administrator(full) as connection:
            connection.execute(archive_policy(0).sql.encode())
    call = "archive.archive_next(1 << 62)" if action == "archive" else "archive.restore()"
    kills = 0
    for number in range(200):
        done = subprocess.run(
            [str(full.python), "-c", KILLED.format(number=number, folder=Path(script("archive.py")).parent, call=call)],
            env=full.environment | settings(full),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, -9), done.stderr
        kills += done.returncode == -9
        assert everything(full) == before, number
        if done.returncode == 0 and done.stdout.strip() in ("None", "[]"):
            break
    assert kills >= 10
    assert archived(full) == (months(OLD) if action == "archive" else [])
    full.build("--full-refresh", **settings(full, months=0))
    assert landed(full) == known


# Ends the process with SIGKILL at the call of this number.
KILLED = """
import os, signal, sys
sys.path[:0] = ["{folder}"]
import archive, duckdb, psycopg
left = {number}
def counted(kind, name):
    original = getattr(kind, name)
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call
class Counted:
    def __init__(self, inner): self._inner = inner
    def __getattr__(self, name):
        found = getattr(self._inner, name)
        return counted(self._inner, name) if callable(found) else found
    def __enter__(self): return Counted(self._inner.__enter__())
    def __exit__(self, *details): return self._inner.__exit__(*details)
duckdb_connect = duckdb.connect
duckdb.connect = lambda *a, **o: Counted(duckdb_connect(*a, **o))
psycopg_connect = psycopg.connect
psycopg.connect = lambda *a, **o: Counted(psycopg_connect(*a, **o))
print({call})
"""


READ = """
import duckdb, json, sys
rows = duckdb.execute("select * replace (epoch_us(ingested_at) as ingested_at) from read_parquet($1)", sys.argv[1:2])
print(json.dumps(rows.fetchall()))
"""
AS_RAW = """
select %s::bigint, %s::text, to_timestamp(0) + %s * interval '1 microsecond', %s::text, %s::int, %s::text::xid8,
    %s::jsonb
"""


def everything(stack: Stack) -> list[Any]:
    """Return the raw rows of PostgreSQL and of the recorded files, in order; a row that is in both is there twice."""
    rows = raw(stack)
    with administrator(stack) as connection:
        for (url,) in connection.execute("select url from raw.archived_months").fetchall():
            found = json.loads(stack.script_of(READ, path=url))
            rows += [connection.execute(AS_RAW.encode(), row).fetchone() for row in found]
    return sorted(rows, key=lambda row: (row[2], row[0]))
