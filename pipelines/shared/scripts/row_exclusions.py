"""Exclude rows of a pipeline's table from its marts, and include them again. No row is deleted.

    row_exclusions.py list
    row_exclusions.py count  --table NAME --time COLUMN --key COLUMN=VALUE --from TIME --to TIME
    row_exclusions.py add    --table NAME --time COLUMN --key COLUMN=VALUE --from TIME --to TIME --reason TEXT --by NAME
    row_exclusions.py revoke --id NUMBER --reason TEXT --by NAME

An exclusion covers the rows with these values, from `--from` to before `--to`; `--key` can be repeated. Times are ISO
8601, in UTC if they have no offset. The last line of standard output is a JSON document. Exit status: 0 success; 8
invalid options, or there is nothing to exclude or to revoke; 1 PostgreSQL cannot be reached.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import psycopg
from contract import EXIT, Parser
from psycopg.rows import dict_row
from psycopg.sql import SQL, Composable, Identifier
from psycopg.types.json import Jsonb

_COUNT = SQL(
    "select count(*) as rows, min({time}) as first, max({time}) as last from {table} "
    "where {time} >= %(first)s and {time} < %(until)s and {keys}"
)
_ADD = """
insert into exclusions (key, first, until, reason, excluded_by)
values (%(key)s, %(first)s, %(until)s, %(reason)s, %(by)s)
returning id
"""
_REVOKE = """
update exclusions set revoked_at = now(), revoked_by = %(by)s, revoke_reason = %(reason)s
where id = %(id)s and revoked_at is null
returning id
"""
_LIST = """
select id, key, first, until, reason, excluded_by, created_at, revoked_at, revoked_by from exclusions order by id
"""

Connection = psycopg.Connection[dict[str, Any]]


class ExclusionError(Exception):
    """The options name nothing that can be excluded or revoked."""


def list_all(connection: Connection, _: Namespace) -> list[dict[str, Any]]:
    """Return all exclusions, revoked ones included."""
    return connection.execute(_LIST).fetchall()


def count(connection: Connection, options: Namespace) -> dict[str, Any]:
    """Return the number and the period of the rows that the options select. Raises ExclusionError."""
    if options.first >= options.until:
        raise ExclusionError("--from must be before --to")
    keys: list[Composable] = [
        SQL("{}::text = %({})s").format(Identifier(name), SQL(f"key_{index}")) for index, name in enumerate(options.key)
    ]
    values = {f"key_{index}": value for index, value in enumerate(options.key.values())}
    sql = _COUNT.format(time=Identifier(options.time), table=Identifier(options.table), keys=SQL(" and ").join(keys))
    found = connection.execute(sql, {"first": options.first, "until": options.until, **values}).fetchone() or {}
    if not found["rows"]:
        named = ", ".join(f"{name}={value}" for name, value in options.key.items())
        raise ExclusionError(f"there is no row with {named} in this period")
    return found


def add(connection: Connection, options: Namespace) -> dict[str, Any]:
    """Add an exclusion; return its id and the rows that it covers now. Raises ExclusionError."""
    found = count(connection, options)
    row = connection.execute(_ADD, {**vars(options), "key": Jsonb(options.key)}).fetchone()
    return {**found, **(row or {})}


def revoke(connection: Connection, options: Namespace) -> dict[str, Any]:
    """Revoke an exclusion and return it. Raises ExclusionError."""
    if connection.execute(_REVOKE, vars(options)).fetchone() is None:
        raise ExclusionError(f"there is no exclusion {options.id} that is in force")
    return next(each for each in list_all(connection, options) if each["id"] == options.id)


_COMMANDS: Mapping[str, Callable[[Connection, Namespace], object]] = {
    "list": list_all,
    "count": count,
    "add": add,
    "revoke": revoke,
}


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise ValueError
    return name, value


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return "".join(each if each.isprintable() else "?" for each in text.strip())[:1000]


def _options() -> Namespace:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in _COMMANDS}
    for name in ("count", "add"):
        parsers[name].add_argument("--table", required=True)
        parsers[name].add_argument("--time", required=True)
        parsers[name].add_argument("--key", type=_pair, action="append", required=True)
        parsers[name].add_argument("--from", dest="first", type=_time, required=True)
        parsers[name].add_argument("--to", dest="until", type=_time, required=True)
    parsers["revoke"].add_argument("--id", type=int, required=True)
    for name in ("add", "revoke"):
        parsers[name].add_argument("--reason", type=_text, required=True)
        parsers[name].add_argument("--by", type=_text, required=True)
    options = parser.parse_args()
    options.key = dict(getattr(options, "key", ()))
    return options


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    options = _options()
    try:
        with psycopg.connect("", application_name="row_exclusions", row_factory=dict_row) as connection:
            connection.execute("set timezone = 'UTC'")
            answer = _COMMANDS[options.command](connection, options)
    except ExclusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    except psycopg.Error as error:
        print(f"error: PostgreSQL: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(answer, default=lambda time: time.isoformat()))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
