"""Store rows of a file in a pipeline's table: `row_backfill.py --table NAME --time COLUMN --key COLUMN < FILE`.

Standard input is CSV with a header, or one JSON object a line; the names are the table's columns. All rows are stored
in one transaction, or none. A row with the key and the time of an existing one is left out; with `--replace`, it
replaces that. The last line of standard output is a JSON document. Exit status: 0 success; 8 invalid options or rows;
1 PostgreSQL cannot be reached.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from contract import EXIT, Parser
from psycopg.sql import SQL, Identifier

_NULL = "\\N"


class BadFile(Exception):
    """The file holds no rows of the table."""


def read(text: str) -> tuple[list[str], Iterator[Sequence[str]]]:
    """Return the columns and the rows of CSV or of JSON lines; null is `\\N`. Raises BadFile."""
    if not text.strip():
        raise BadFile("the file is empty")
    if not text.lstrip().startswith("{"):
        rows = csv.reader(io.StringIO(text))
        return next(rows), rows
    try:
        objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise BadFile(f"a line is not JSON: {error}") from None
    columns = list(dict.fromkeys(name for each in objects for name in each))
    return columns, ([_plain(each.get(name)) for name in columns] for each in objects)


def _plain(value: Any) -> str:
    return _NULL if value is None else value if isinstance(value, str) else json.dumps(value)


def store(connection: psycopg.Connection[Any], options: Namespace, text: str) -> dict[str, int]:
    """Store the rows; return the numbers of stored, unchanged and replaced ones. Raises BadFile and psycopg.Error."""
    columns, rows = read(text)
    table, names = Identifier(options.table), SQL(", ").join(map(Identifier, columns))
    identity = [*options.key, options.time]
    if missing := [name for name in identity if name not in columns]:
        raise BadFile(f"it has no column {', '.join(missing)}")
    connection.execute(SQL("create temporary table incoming (like {}) on commit drop").format(table))
    copy = SQL("copy incoming ({}) from stdin with (format csv, null '\\N')").format(names)
    with connection.cursor().copy(copy) as target:
        for number, row in enumerate(rows, 1):
            if len(row) != len(columns):
                raise BadFile(f"row {number} has {len(row)} values, not {len(columns)}")
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(row)
            target.write(line.getvalue())
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
