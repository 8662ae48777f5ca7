"""Print the last build and the marts as JSON, for `homelab status`: `report.py --database FILE`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from contract import EXIT
from read_published import NothingPublished, connect

_MARTS = """select table_name, min(column_name) filter (column_name like 'observation\\_%' escape '\\')
from information_schema.columns where table_schema = 'main' group by table_name
having bool_or(column_name = 'last_ingested_at') order by table_name"""


def describe_marts(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return each mart's number of rows, newest period, and time of the newest ingested observation."""
    marts = []
    for name, period in connection.execute(_MARTS).fetchall():
        newest = f'max("{period}")' if period else "null"
        rows, last, ingested = connection.execute(
            f'select count(*), {newest}, max(last_ingested_at) from "{name}"'  # noqa: S608
        ).fetchone() or (0, None, None)
        marts.append(
            {
                "name": name,
                "rows": rows,
                "newest": last and last.isoformat(),
                "last_ingested_at": ingested and ingested.isoformat(),
            }
        )
    return marts


def held_back(connection: duckdb.DuckDBPyConnection) -> dict[str, str] | None:
    """Return the transaction that the landing waits for, if it was open at the previous build already.

    Rows of later transactions are landed, but read again in each build until it ends.
    """
    row = connection.execute(
        "select held_since::varchar, coalesce(holders, 'unknown') from landing.source_state where held_since < as_of"
    ).fetchone()
    return {"since": row[0], "transaction": row[1]} if row else None


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    options = parser.parse_args()
    last = options.database.with_name("last_build.json")
    report: dict[str, Any] = {"last_build": json.loads(last.read_text()) if last.exists() else None, "marts": []}
    try:
        with connect(options.database) as connection:
            report["marts"] = describe_marts(connection)
            report["issues"] = connection.execute("select count(*) from observation_issues").fetchall()[0][0]
            report["held_back"] = held_back(connection)
            report["published_bytes"] = options.database.stat().st_size
    except (NothingPublished, duckdb.CatalogException):
        report["published_bytes"] = None  # no build yet, or one of another version without these marts
    print(json.dumps(report))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
