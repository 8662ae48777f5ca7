"""Compare a published file with the database of fakesnow: `compare_snowflake.py FILE DATABASE`.

Print the number of rows of each table. It runs with the DuckDB of fakesnow, which is newer than that of the file.
"""

from __future__ import annotations

import json
import sys

import duckdb

_NAMES = """
select distinct table_name from duckdb_columns() where database_name = 'file' and schema_name = 'main' order by all
"""


def main() -> None:
    """Raise AssertionError for the first table of the schema `main` that differs."""
    counts = {}
    with duckdb.connect() as connection:
        connection.execute("set TimeZone = 'UTC'; set lambda_syntax = 'ENABLE_SINGLE_ARROW'")  # in fakesnow's views
        for name, path in zip(("file", "snowflake"), sys.argv[1:3], strict=True):
            connection.execute(f"attach '{path}' as {name} (read_only)")
        for (table,) in connection.execute(_NAMES).fetchall():
            counts[table] = _compare(connection, table)
    print(json.dumps(counts))


def _compare(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    columns = connection.execute(f"describe file.main.{table}").fetchall()
    found = connection.execute(f"describe snowflake.weather.{table}").fetchall()
    assert [column.lower() for column, *_ in found] == [column for column, *_ in columns], table
    values = ", ".join(_value(column, kind) for column, kind, *_ in columns)
    rows = [f"(select {values} from {schema}.{table})" for schema in ("file.main", "snowflake.weather")]  # noqa: S608
    for first, second in (rows, rows[::-1]):
        different = connection.execute(f"from {first} except all from {second} limit 3").fetchall()
        assert not different, (table, values, different)
    count: int = connection.execute(f"from {rows[0]} select count(*)").fetchall()[0][0]
    return count


def _value(column: str, kind: str) -> str:
    """Return a value in a type that both have. The order of rows changes the last digits of sums."""
    kind = {"UUID": "VARCHAR", "TIMESTAMP WITH TIME ZONE": "TIMESTAMP"}.get(kind, kind)
    return f'round("{column}"::double, 9)' if kind == "DOUBLE" else f'"{column}"::{kind}'


if __name__ == "__main__":
    main()
