"""Ask the published marts: `query.py --database FILE [--format json|table|csv] SQL`.

Exit status: 0 answered, 1 DuckDB refuses the SQL, 3 nothing has been published yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from published import NOTHING_YET, NothingPublished, connect


def plain(value: Any) -> Any:
    """A value in JSON's own types; times in ISO 8601."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and (value != value or abs(value) == float("inf")):
        return None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def unique(names: Sequence[str]) -> list[str]:
    """Column names that are told apart, so that no value is lost in JSON: `a`, `a_1`, …"""
    taken: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        while (candidate := f"{name}_{taken[name]}" if name in taken else name) in found:
            taken[name] = taken.get(name, 0) + 1
        found.append(candidate)
    return found


def show(form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write the answer to standard output."""
    if form == "json":
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False))
    elif form == "csv":
        csv.writer(sys.stdout).writerows([columns, *rows])
    else:
        cells = [["" if value is None else str(value) for value in row] for row in (columns, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--format", choices=["json", "table", "csv"], default="json")
    parser.add_argument("sql")
    options = parser.parse_args()
    try:
        with connect(options.database) as connection:
            if not duckdb.extract_statements(options.sql):
                raise duckdb.ParserException("there is no statement to run")
            answer = connection.execute(options.sql)
            columns = unique([column[0] for column in answer.description or ()])
            rows = [[plain(value) for value in row] for row in answer.fetchall()]
    except NothingPublished as error:
        print(f"error: {error}", file=sys.stderr)
        return NOTHING_YET
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(options.format, columns, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
