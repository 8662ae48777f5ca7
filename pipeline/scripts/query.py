"""Query the published marts: `query.py --database FILE [--format json|table|csv] [SQL]`.

Without SQL, statements are read from standard input, each up to its semicolon; on a terminal this is a shell.

Exit status: 0 success, 1 DuckDB refuses the SQL, 3 no build has been published yet.
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
from contract import EXIT
from read_published import NothingPublished, connect

_COMMANDS = {".tables": "show tables"}


def to_json(value: Any) -> Any:
    """Convert a value to JSON's types; times become ISO 8601."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
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


def print_rows(form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print the rows in this format."""
    if form == "json":
        print(json.dumps([dict(zip(columns, row, strict=True)) for row in rows], ensure_ascii=False))
    elif form == "csv":
        csv.writer(sys.stdout).writerows([columns, *rows])
    else:
        cells = [["" if value is None else str(value) for value in row] for row in (columns, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def run_statement(database: Path, form: str, sql: str) -> None:
    """Run one statement and print its rows. Raises NothingPublished and duckdb.Error."""
    with connect(database) as connection:
        if not duckdb.extract_statements(sql):
            raise duckdb.ParserException("the statement is empty")
        answer = connection.execute(sql)
        columns = unique_names([column[0] for column in answer.description or ()])
        rows = [[to_json(value) for value in row] for row in answer.fetchall()]
    print_rows(form, columns, rows)


def try_statement(database: Path, form: str, sql: str) -> int:
    """Run one statement and report errors; return the exit status."""
    try:
        run_statement(database, form, sql)
    except NothingPublished as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.nothing_published
    except duckdb.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    return EXIT.success


def split_statements(lines: Iterator[str]) -> Iterator[str]:
    """Yield statements from lines of input; each ends with a semicolon or with the input."""
    text = ""
    for line in lines:
        word = line.strip()
        if not text and word in _COMMANDS:
            yield _COMMANDS[word]
            continue
        text += line
        # A semicolon may be within quotes.
        if word.endswith(";") and not (text.count("'") % 2 or text.count('"') % 2):
            yield text
            text = ""
    if text.strip():
        yield text


def read_terminal() -> Iterator[str]:
    """Yield lines from a terminal with history; Ctrl-C discards the line, Ctrl-D ends."""
    import readline  # noqa: F401 - gives input() its editing

    print("The published marts. Statements end with ;  .tables lists the tables, .quit ends.")
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
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--format", choices=["json", "table", "csv"], default="json")
    parser.add_argument("sql", nargs="?")
    options = parser.parse_args()
    if options.sql is not None:
        return try_statement(options.database, options.format, options.sql)
    at_terminal = sys.stdin.isatty()
    status = EXIT.success
    for sql in split_statements(read_terminal() if at_terminal else iter(sys.stdin)):
        status = try_statement(options.database, options.format, sql)
        if status and not at_terminal:
            return status
    return EXIT.success if at_terminal else status


if __name__ == "__main__":
    sys.exit(main())
