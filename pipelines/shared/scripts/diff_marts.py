"""Compare the tables of two DuckDB files. Reads a request as JSON from standard input, prints the differences as JSON.

The request: `before` and `after`, the paths of the files, and `tables`, each with `name` and `key`, its key columns.
Only the schema main is compared. Rows are matched by the key if it is unique and not null in both files; without a key,
a changed row counts as one removed and one added row. A column whose type has changed is compared after a cast to the
new type.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from duckdb_sql import attach, identifier

_COLUMNS = """
select column_name, data_type from duckdb_columns()
where database_name = ? and schema_name = 'main' and table_name = ? order by column_index
"""


def compare(connection: duckdb.DuckDBPyConnection, name: str, key: Sequence[str]) -> dict[str, Any]:
    """Return the differences of one table of the attached files `before` and `after`."""
    old, new = (_columns(connection, each, name) for each in ("before", "after"))
    shared = [column for column in new if column in old]
    usable = bool(key) and all(column in shared for column in key)
    usable = usable and all(_is_unique(connection, each, name, key) for each in ("before", "after"))
    if usable:
        others = [column for column in shared if column not in key]
        counts, values = _by_key(connection, name, key, {column: new[column] for column in others})
    else:
        counts, values = _by_content(connection, name, {column: new[column] for column in shared}), {}
    rows = [_count(connection, f"select count(*) from {each}.main.{identifier(name)}") for each in ("before", "after")]
    return {
        "name": name,
        "key": list(key) if usable else [],
        "rows_before": rows[0],
        "rows_after": rows[1],
        **counts,
        "columns": [*_changed_columns(old, new, values)],
    }


def _changed_columns(
    old: Mapping[str, str], new: Mapping[str, str], values: Mapping[str, int]
) -> list[dict[str, str | int]]:
    """Return the columns that were added or removed, or that differ in their type or their values."""
    found: list[dict[str, str | int]] = []
    for column in [*old, *(each for each in new if each not in old)]:
        before, after, rows = old.get(column, ""), new.get(column, ""), values.get(column, 0)
        if before != after or rows:
            found.append({"name": column, "type_before": before, "type_after": after, "rows": rows})
    return found


def _by_key(
    connection: duckdb.DuckDBPyConnection, name: str, key: Sequence[str], others: Mapping[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the numbers of added, removed and changed rows, and of changed rows by column."""
    differ = {
        column: f"(try_cast(b.{identifier(column)} as {kind}) is distinct from a.{identifier(column)})"
        for column, kind in others.items()
    }
    both = "b.is_there and a.is_there"
    counts = [
        "count(*) filter (b.is_there is null)",
        "count(*) filter (a.is_there is null)",
        f"count(*) filter ({both} and ({' or '.join(differ.values()) or 'false'}))",
        *(f"count(*) filter ({both} and {each})" for each in differ.values()),
    ]
    condition = " and ".join(f"b.{identifier(column)} = a.{identifier(column)}" for column in key)
    sides = [f"(select *, true as is_there from {each}.main.{identifier(name)})" for each in ("before", "after")]
    row = connection.execute(
        f"select {', '.join(counts)} from {sides[0]} as b full join {sides[1]} as a on {condition}"
    ).fetchone()
    added, removed, changed, *values = row or (0, 0, 0)
    return {"added": added, "removed": removed, "changed": changed}, dict(zip(differ, values, strict=False))


def _by_content(connection: duckdb.DuckDBPyConnection, name: str, shared: Mapping[str, str]) -> dict[str, int]:
    """Return the numbers of added and removed rows by the content of all shared columns."""
    casts = ", ".join(f"try_cast({identifier(column)} as {kind})" for column, kind in shared.items()) or "1"
    before, after = (f"select {casts} from {each}.main.{identifier(name)}" for each in ("before", "after"))
    added = _count(connection, f"select count(*) from ({after} except all {before})")
    removed = _count(connection, f"select count(*) from ({before} except all {after})")
    return {"added": added, "removed": removed, "changed": 0}


def _columns(connection: duckdb.DuckDBPyConnection, database: str, name: str) -> dict[str, str]:
    return dict(connection.execute(_COLUMNS, [database, name]).fetchall())


def _is_unique(connection: duckdb.DuckDBPyConnection, database: str, name: str, key: Sequence[str]) -> bool:
    columns = ", ".join(map(identifier, key))
    missing = " or ".join(f"{identifier(column)} is null" for column in key)
    table = f"{database}.main.{identifier(name)}"
    duplicates = f"select 1 from {table} group by {columns} having count(*) > 1"
    return not _count(connection, f"select count(*) from {table} where {missing}") and not _count(
        connection, f"select count(*) from ({duplicates})"
    )


def _count(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0


def main() -> int:
    """Print the differences of the requested tables."""
    request = json.load(sys.stdin)
    connection = duckdb.connect()
    for each in ("before", "after"):
        attach(connection, Path(request[each]), each, read_only=True)
    print(json.dumps([compare(connection, table["name"], table["key"]) for table in request["tables"]]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
