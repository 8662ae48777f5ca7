"""Compare two published files: `compare_published.py FILE LAKE [marts]`; print the number of rows of each table.

With `marts`, only these are compared, as their rows do not depend on the number of builds.
"""

from __future__ import annotations

import json
import sys

import duckdb

# Times and transactions of the builds themselves.
_LEFT_OUT = {
    "source_state": ["as_of", "held_since", "landed_before", "landing_before"],
    "test_state": ["full_test_at"],
    "schedule_source": ["computed_until"],
    "build_info": ["built_at"],
    "weather_daily_history": ["dbt_updated_at", "dbt_valid_from", "dbt_valid_to", "dbt_scd_id"],
}
_NAMES = "select schema_name, table_name from duckdb_columns() where database_name = $1 group by all order by all"


def main() -> None:
    """Raise AssertionError for the first table that differs."""
    counts = {}
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'")
        for name, path in zip(("file", "lake"), sys.argv[1:3], strict=True):
            connection.execute(f"attach '{path}' as {name} (read_only)")
        file, lake = (set(connection.execute(_NAMES, [name]).fetchall()) for name in ("file", "lake"))
        assert lake - file <= {("landing", "builds"), ("landing", "clickhouse_build")}, lake - file
        assert file - lake <= {("landing", "compaction")}, file - lake
        for schema, table in sorted(file & lake):
            if table == "compaction":
                continue
            if "marts" in sys.argv[3:] and (schema != "main" or table.endswith("_history")):
                continue
            counts[table] = _compare(connection, f"{schema}.{table}", _LEFT_OUT.get(table, []))
    print(json.dumps(counts))


def _compare(connection: duckdb.DuckDBPyConnection, table: str, left_out: list[str]) -> int:
    found, other = (connection.execute(f"describe {name}.{table}").fetchall() for name in ("file", "lake"))
    assert [row[:2] for row in found] == [row[:2] for row in other], (table, found, other)
    # The order of rows changes the last digits of sums.
    columns = ", ".join(
        f"round({name}, 9) as {name}" if kind == "DOUBLE" else name for name, kind, *_ in found if name not in left_out
    )
    # A day is in the history again if the last digit of its mean has changed.
    distinct = "distinct " if table.endswith("_history") else ""
    rows = [f"(from {name}.{table} select {distinct}{columns})" for name in ("file", "lake")]
    for first, second in (rows, rows[::-1]):
        different = connection.execute(f"from {first} except all from {second} limit 3").fetchall()
        assert not different, (table, columns, different)
    count: int = connection.execute(f"from {rows[0]} select count(*)").fetchall()[0][0]
    return count


if __name__ == "__main__":
    main()
