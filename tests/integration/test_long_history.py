"""An hourly build reads the rows of its own hours, and not those of the whole history."""

from __future__ import annotations

import json

import pytest

from tests.integration.test_numbers import administrator
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack

pytestmark = pytest.mark.timeout(300)
CITIES, HOURS = 100, 3_000  # three blocks of DuckDB, which have 122,880 rows each
INSERT = """
insert into raw.weather_observations (city, units, data)
select 'City ' || city, 'imperial', jsonb_build_object(
    'dt', extract(epoch from moment)::bigint, 'main', jsonb_build_object('temp', 50, 'humidity', 60))
from generate_series(%s::int, %s::int) as hour, generate_series(1, %s) as city,
    lateral (select date_trunc('hour', now()) - interval '1 hour' * hour) as at (moment)
order by moment
"""
# The rows of landing_weather that each compiled table or test reads.
SCANNED = """
import duckdb, json, pathlib, re, sys
def scanned(node):
    is_landing = node.get("extra_info", {}).get("Table", "").endswith("landing_weather")
    return is_landing * node.get("operator_rows_scanned", 0) + sum(map(scanned, node["children"]))
found = {}
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    connection.execute("set TimeZone = 'UTC'")
    views = {name for name, in connection.execute("select view_name from duckdb_views()").fetchall()}
    for path in pathlib.Path(sys.argv[2]).rglob("*.sql"):
        sql = path.read_text()
        if path.stem not in views and '"raw"' not in sql and re.search("landing_weather|stg_weather|changed_", sql):
            _, plan = connection.execute("explain (analyze, format json) " + sql).fetchone()
            found[path.stem] = scanned(json.loads(plan))
print(json.dumps(found))
"""


def insert(stack: Stack, first: int, last: int) -> None:
    """Insert a row of each city for each of these hours before now."""
    with administrator(stack) as connection:
        connection.execute(INSERT, (first, last, CITIES))


def test_hourly_build_reads_a_small_part_of_a_long_history(stack: Stack) -> None:
    insert(stack, 1, HOURS)
    stack.build()
    insert(stack, 0, 0)
    stack.build()
    compiled = stack.data / "target" / "compiled"
    output = stack.script_of(SCANNED, str(compiled), path=str(stack.data / "warehouse.duckdb"))
    found = json.loads(output.splitlines()[-1])
    assert {"weather_hourly", "weather_daily", "place_versions", "observed_times"} <= set(found)
    assert {name: rows for name, rows in found.items() if rows > 0.7 * CITIES * HOURS} == {}
