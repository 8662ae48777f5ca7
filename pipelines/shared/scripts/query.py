"""Query the published marts: `query.py --database FILE SQL` prints the rows of one statement as JSON.

With `--at TIME` instead of `--database`, the tables are those of the lake's last build at this time; a time without an
offset is in UTC.

Exit status: 0 success, 1 DuckDB refuses the SQL, 3 no build has been published yet, or none at this time; 8 the
pipeline has no lake.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from contract import EXIT
from lake import Lake, NoSnapshot
from read_published import NothingPublished, connect, connect_at


def to_json(value: Any) -> Any:
    """Convert a value to JSON's types: times become ISO 8601, binary values base64, NaN and infinity null."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def unique_names(names: Sequence[str]) -> list[str]:
    """Number duplicate column names (`a`, `a_1`, …), so that no value is lost in JSON."""
    taken: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        while (candidate := f"{name}_{taken[name]}" if name in taken else name) in found:
            taken[name] = taken.get(name, 0) + 1
        found.append(candidate)
    return found


def run_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    """Return the rows of one statement, and close the connection. Raises duckdb.Error."""
    with connection:
        statements = duckdb.extract_statements(sql)
        if not statements:
            raise duckdb.ParserException("the statement is empty")
        # Of a file, DuckDB refuses it itself; of a lake, it may write next to the tables.
        if any(each.type == duckdb.StatementType.COPY for each in statements):
            raise duckdb.PermissionException("COPY writes a file; a query only reads")
        answer = connection.execute(sql)
        columns = unique_names([column[0] for column in answer.description or ()])
        return [dict(zip(columns, map(to_json, row), strict=True)) for row in answer.fetchall()]


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--database", type=Path)
    source.add_argument("--at", type=datetime.fromisoformat)
    parser.add_argument("sql")
    options = parser.parse_args()
    lake = Lake.from_environment() if options.at else None
    if options.at and lake is None:
        print("error: the pipeline has no lake", file=sys.stderr)
        return EXIT.bad_input
    try:
        connection = connect_at(lake, options.at) if lake else connect(options.database)
        rows = run_statement(connection, options.sql)
    except (NothingPublished, NoSnapshot) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.nothing_published
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(rows, ensure_ascii=False))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
