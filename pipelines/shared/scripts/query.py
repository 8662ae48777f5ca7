"""Query the published marts: `query.py --database FILE SQL` prints the rows of one statement as JSON.

With `--at TIME` instead of `--database`, the tables are those of the lake's last build at this time; a time without an
offset is in UTC.

Exit status: 0 success, 1 DuckDB refuses the SQL, 3 no build has been published yet, or none at this time; 8 the
pipeline has no lake.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
from contract import EXIT
from json_rows import to_json, unique_names
from lake import Lake, NoSnapshot
from read_published import NothingPublished, connect, connect_at

_BATCH = 5_000  # rows in memory


def run_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of one statement, and close the connection. Raises duckdb.Error."""
    with connection:
        statements = duckdb.extract_statements(sql)
        if not statements:
            raise duckdb.ParserException("the statement is empty")
        # Of a file, DuckDB refuses it itself; of a lake, it may write next to the tables.
        if any(each.type == duckdb.StatementType.COPY for each in statements):
            raise duckdb.PermissionException("COPY writes a file; a query only reads")
        answer = connection.execute(sql)
        columns = unique_names([column[0] for column in answer.description or ()])
        # Not all at once: a million rows would take more than a gigabyte.
        while rows := answer.fetchmany(_BATCH):
            yield from (dict(zip(columns, map(to_json, row), strict=True)) for row in rows)


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
        encode = json.JSONEncoder(ensure_ascii=False).encode
        print("[", end="")
        for number, row in enumerate(run_statement(connection, options.sql)):
            print(", " if number else "", encode(row), sep="", end="")
        print("]")
    except (NothingPublished, NoSnapshot) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.nothing_published
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
