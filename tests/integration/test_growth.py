"""The size of the warehouse and of dbt's files after many builds; a compaction that is killed at any point.

benchmarks/growth.py makes a thousand builds.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_numbers import answer, as_ingestion, at, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCRIPTS

pytestmark = pytest.mark.timeout(300)
HOUR = 3600
FRESH_COPY = """
import duckdb, os, sys
with duckdb.connect() as connection:
    connection.execute(f"attach '{sys.argv[1]}' as warehouse; attach '{sys.argv[2]}' as fresh")
    connection.execute("copy from database warehouse to fresh")
print(os.path.getsize(sys.argv[2]))
"""
BLOAT = """
import duckdb, sys
for sql in (
    "create or replace table bloat as select range as a, random() as b from range(1000000)",
    "create or replace table after_it as select range as a, random() as b from range(50000)",
    "drop table bloat",  # DuckDB shortens a file only at its end
):
    with duckdb.connect(sys.argv[1]) as connection:
        connection.execute(sql)
        connection.execute("checkpoint")
"""
ROWS = """
import duckdb, json, sys
with duckdb.connect(sys.argv[1]) as connection:
    connection.execute("set TimeZone = 'UTC'")
    names = connection.execute("select table_schema || '.' || table_name from information_schema.tables "
                               "where table_name <> 'compaction' order by all").fetchall()
    rows = [(name, str(connection.execute(f"from {name} order by all").fetchall())) for name, in names]
print(json.dumps(rows))
"""
# Ends before the file operation of this number, or after some milliseconds.
KILLED = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import compact
kind, left = sys.argv[3], int(sys.argv[4])
def end(event, arguments):
    global left
    left -= event in ("open", "os.rename", "os.remove", "os.chmod")
    if left <= 0:
        os._exit(9)
def later():
    time.sleep(left / 1000)
    os._exit(9)
if kind == "operation":
    sys.addaudithook(end)
else:
    threading.Thread(target=later, daemon=True).start()
compact.compact(Path(sys.argv[1]))
"""


def bloat(stack: Stack) -> None:
    """Make the warehouse's file much larger than its rows."""
    stack.script_of(BLOAT)
    assert (stack.data / "warehouse.duckdb").stat().st_size > 8e6


def rows_of(stack: Stack) -> list[tuple[str, str]]:
    """Return all rows of the warehouse by relation."""
    found: list[tuple[str, str]] = json.loads(stack.script_of(ROWS))
    return found


def test_files_stay_small_after_many_builds(stack: Stack, tmp_path: Path) -> None:
    with as_ingestion(stack) as connection:
        for hour in range(100):
            insert(connection, "A", answer(at("2026-03-10 00:00") + hour * HOUR))
    sizes = []
    for number in range(6):
        with as_ingestion(stack) as connection:
            insert(connection, "A", answer(at("2026-03-20 00:00") + number * HOUR))
        stack.build(*(("--full-refresh",) if number == 3 else ()))
        fresh = int(stack.script_of(FRESH_COPY, str(tmp_path / f"fresh-{number}.duckdb")))
        sizes.append((stack.data / "warehouse.duckdb").stat().st_size / fresh)
    assert max(sizes) <= 1.3, sizes
    for folder in ("logs", "target"):
        assert sum(path.stat().st_size for path in (stack.data / folder).rglob("*") if path.is_file()) < 16e6


def test_build_compacts_a_warehouse_that_has_grown(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 00:00"), rain={"1h": 2.0}))
    stack.build()
    size = stack.published.stat().st_size
    before = stack.query("from weather_daily")
    bloat(stack)
    stack.build()
    assert (stack.data / "warehouse.duckdb").stat().st_size < 1.3 * size
    assert stack.published.stat().st_size < 1.3 * size
    assert stack.query("from weather_daily") == before


def test_killed_compaction_keeps_all_rows(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for hour in range(48):
            insert(connection, "A", answer(at("2026-03-10 00:00") + hour * HOUR))
    stack.build()
    bloat(stack)
    before = rows_of(stack)
    warehouse = stack.data / "warehouse.duckdb"
    kills = 0
    for kind, left in [*(("time", delay) for delay in (20, 60, 120, 200)), *(("operation", n) for n in range(3, 9))]:
        done = subprocess.run(
            [str(stack.python), "-c", KILLED, str(warehouse), str(SCRIPTS), kind, str(left)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in (0, 9), done.stderr
        kills += done.returncode == 9
        if done.returncode == 0:
            assert warehouse.stat().st_size < 8e6
            bloat(stack)
            before = rows_of(stack)
        assert rows_of(stack) == before, (kind, left)
    assert kills > 3
    stack.build()
    assert list(stack.data.glob("warehouse.compact*")) == [], "the leftovers are removed"
    assert warehouse.stat().st_size < 8e6
