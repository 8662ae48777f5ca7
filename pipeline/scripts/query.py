"""Ask the published marts: `query.py --database FILE [--format json|table|csv] [SQL]`.

Without SQL, statements are read from standard input, each up to its semicolon; at a terminal that is a small shell.

Exit status: 0 answered, 1 DuckDB refuses the SQL, 3 nothing has been published yet.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
from published import NOTHING_YET, NothingPublished, connect

_WORDS = {".tables": "show tables"}


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


def ask(database: Path, form: str, sql: str) -> None:
    """Run one statement and show its answer. Raises NothingPublished, and duckdb.Error for what DuckDB refuses."""
    with connect(database) as connection:
        if not duckdb.extract_statements(sql):
            raise duckdb.ParserException("there is no statement to run")
        answer = connection.execute(sql)
        columns = unique([column[0] for column in answer.description or ()])
        rows = [[plain(value) for value in row] for row in answer.fetchall()]
    show(form, columns, rows)


def asked(database: Path, form: str, sql: str) -> int:
    """As `ask`, with what goes wrong told; returns the exit status."""
    try:
        ask(database, form, sql)
    except NothingPublished as error:
        print(f"error: {error}", file=sys.stderr)
        return NOTHING_YET
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def statements(lines: Iterator[str]) -> Iterator[str]:
    """What is typed, statement by statement: each ends with a semicolon, or with the end of the input."""
    text = ""
    for line in lines:
        word = line.strip()
        if not text and word in _WORDS:
            yield _WORDS[word]
            continue
        text += line
        # A semicolon may stand within quotes.
        if word.endswith(";") and not (text.count("'") % 2 or text.count('"') % 2):
            yield text
            text = ""
    if text.strip():
        yield text


def typed() -> Iterator[str]:
    """Lines from a terminal, with history; Ctrl-C begins a new one, Ctrl-D ends."""
    import readline  # noqa: F401 - gives input() its editing

    print("The published marts. Statements end with ;  .tables lists what there is, .quit ends.")
    while True:
        try:
            line = input("weather> ")
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        if line.strip() in (".quit", ".exit", "quit", "exit"):
            return
        yield line + "\n"


def main() -> int:
    """Run once; see the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--format", choices=["json", "table", "csv"], default="json")
    parser.add_argument("sql", nargs="?")
    options = parser.parse_args()
    if options.sql is not None:
        return asked(options.database, options.format, options.sql)
    at_terminal = sys.stdin.isatty()
    status = 0
    for sql in statements(typed() if at_terminal else iter(sys.stdin)):
        status = asked(options.database, options.format, sql)
        if status and not at_terminal:
            return status
    return 0 if at_terminal else status


if __name__ == "__main__":
    sys.exit(main())
