"""What `homelab status` wants to know: `report.py --database FILE` prints the last build and the marts as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from published import NothingPublished, connect

_MARTS = """select table_name, min(column_name) filter (column_name like 'observation\\_%' escape '\\')
from information_schema.columns where table_schema = 'main' group by table_name
having bool_or(column_name = 'last_ingested_at') order by table_name"""


def marts(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Each mart's rows, its newest period, and when its newest observation came."""
    found = []
    for name, period in connection.execute(_MARTS).fetchall():
        newest = f'max("{period}")' if period else "null"
        rows, last, came = connection.execute(
            f'select count(*), {newest}, max(last_ingested_at) from "{name}"'  # noqa: S608
        ).fetchone() or (0, None, None)
        found.append(
            {
                "name": name,
                "rows": rows,
                "newest": last and last.isoformat(),
                "last_ingested_at": came and came.isoformat(),
            }
        )
    return found


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    options = parser.parse_args()
    last = options.database.with_name("last_build.json")
    report: dict[str, Any] = {"last_build": json.loads(last.read_text()) if last.exists() else None, "marts": []}
    try:
        with connect(options.database) as connection:
            report["marts"] = marts(connection)
            report["published_bytes"] = options.database.stat().st_size
    except NothingPublished:
        report["published_bytes"] = None
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
