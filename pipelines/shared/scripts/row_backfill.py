"""Store rows of a file in a pipeline's table: `row_backfill.py --table NAME --time COLUMN --key COLUMN < FILE`.

Standard input is CSV with a header, where `\\N` is null, or one JSON object a line; the names are the table's columns.
Numbers keep all of their digits. All rows are stored in one transaction, or none. A row with the key and the time of an
existing one is left out; with `--replace`, it replaces that. The last line of standard output is a JSON document. Exit
status: 0 success; 8 invalid options or rows; 1 PostgreSQL cannot be reached.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from contract import EXIT, Parser
from psycopg.sql import SQL, Composed, Identifier

_NULL = "\\N"
_LONGEST = 1 << 30  # characters of a value; PostgreSQL refuses longer ones
csv.field_size_limit(_LONGEST)


class BadFile(Exception):
    """The file holds no rows of the table."""


class _Number(str):
    """A number of JSON, as it is written."""

    __slots__ = ()


def read(text: str) -> tuple[list[str], Iterator[tuple[int, Sequence[str | None]]]]:
    """Return the columns of CSV or of JSON lines, and the rows with the number of their (last) line. Raises BadFile.

    The rows raise BadFile, too.
    """
    if not text.strip():
        raise BadFile("the file is empty")
    if not text.lstrip().startswith(("{", "[")):
        rows = _csv_rows(text)
        return [name or "" for name in next(rows)[1]], rows
    objects = [(number, _object(line, number)) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    columns = list(dict.fromkeys(name for _, each in objects for name in each))
    return columns, ((number, _values(each, columns, number)) for number, each in objects)


def _csv_rows(text: str) -> Iterator[tuple[int, Sequence[str | None]]]:
    """Yield the rows that are not blank. Raises BadFile."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if row:
                yield reader.line_num, [None if value == _NULL else value for value in row]
    except csv.Error as error:
        raise BadFile(f"line {reader.line_num} is not CSV: {error}") from None


def _object(line: str, number: int) -> dict[str, Any]:
    """Return the JSON object of a line. Raises BadFile."""
    try:
        found = json.loads(line, parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant)
    except RecursionError:
        raise BadFile(f"line {number} is nested too deeply") from None
    except ValueError as error:
        raise BadFile(f"line {number} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadFile(f"line {number} is not a JSON object")
    return found


def _values(found: dict[str, Any], columns: Sequence[str], number: int) -> Sequence[str | None]:
    """Return the values of an object for PostgreSQL. Raises BadFile."""
    try:
        return [_plain(found.get(name)) for name in columns]
    except RecursionError:
        raise BadFile(f"line {number} is nested too deeply") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not a number of JSON")


def _plain(value: Any) -> str | None:
    """Return the text of a value for PostgreSQL: JSON for an object or a list, and for true and false."""
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """Return JSON with the numbers as they were written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_json(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return value if isinstance(value, _Number) else json.dumps(value)


def store(connection: psycopg.Connection[Any], options: Namespace, text: str) -> dict[str, int]:
    """Store the rows; return the numbers of stored, unchanged and replaced ones. Raises BadFile and psycopg.Error."""
    columns, rows = read(text)
    table, names = Identifier(options.table), SQL(", ").join(map(Identifier, columns))
    identity = [*options.key, options.time]
    if missing := [name for name in identity if name not in columns]:
        raise BadFile(f"it has no column {', '.join(missing)}")
    connection.execute(SQL("create temporary table incoming (like {}) on commit drop").format(table))
    _copy(connection, SQL("copy incoming ({}) from stdin").format(names), rows, len(columns))
    same = SQL(" and ").join(SQL("stored.{0} = incoming.{0}").format(Identifier(name)) for name in identity)
    values = {"table": table, "names": names, "same": same, "identity": SQL(", ").join(map(Identifier, identity))}
    twice = connection.execute(
        SQL("select {identity} from incoming group by {identity} having count(*) > 1 limit 1").format(**values)
    ).fetchone()
    if twice:
        raise BadFile(f"it has two rows for {', '.join(map(str, twice))}")
    delete = SQL("delete from {table} as stored using incoming where {same}").format(**values)
    replaced = connection.execute(delete).rowcount if options.replace else 0
    stored = connection.execute(
        SQL(
            "insert into {table} ({names}) select {names} from incoming "
            "where not exists (select from {table} as stored where {same})"
        ).format(**values)
    ).rowcount
    total = connection.execute("select count(*) from incoming").fetchone()
    return {"stored": stored - replaced, "unchanged": (total[0] if total else 0) - stored, "replaced": replaced}


def _copy(
    connection: psycopg.Connection[Any], copy: Composed, rows: Iterator[tuple[int, Sequence[str | None]]], width: int
) -> None:
    """Copy the rows. Raises BadFile, with the line in the file instead of the number of the row, and psycopg.Error."""
    lines: list[int] = []
    try:
        with connection.cursor().copy(copy) as target:
            for number, row in rows:
                if len(row) != width:
                    raise BadFile(f"line {number} has {len(row)} values, not {width}")
                lines.append(number)
                target.write_row(row)
    except UnicodeEncodeError:
        raise BadFile(f"line {lines[-1]} holds half of a surrogate pair") from None
    except psycopg.DataError as error:
        row_of_copy = re.match(r"COPY incoming, line (\d+)(?:, column ([^:]+))?", error.diag.context or "")
        if row_of_copy is None:  # psycopg refuses the value
            raise BadFile(f"line {lines[-1]}: {error}") from None
        column = f", column {row_of_copy[2]}" if row_of_copy[2] else ""
        raise BadFile(f"line {lines[int(row_of_copy[1]) - 1]}{column}: {error.diag.message_primary}") from None


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--table", required=True)
    parser.add_argument("--time", required=True)
    parser.add_argument("--key", action="append", required=True)
    parser.add_argument("--replace", action="store_true")
    options = parser.parse_args()
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
        with psycopg.connect("", application_name="row_backfill") as connection:
            connection.execute("set timezone = 'UTC'")
            outcome = store(connection, options, text)
    except (BadFile, UnicodeDecodeError, psycopg.DataError, psycopg.ProgrammingError, psycopg.IntegrityError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.bad_input
    except psycopg.Error as error:
        print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(outcome))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
