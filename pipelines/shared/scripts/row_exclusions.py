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

import sys
from collections.abc import Mapping
from typing import Any

from exclusion_commands import Command, Connection, ExclusionError, options_parser, require_period, run, text_option
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


def list_all(connection: Connection, _: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all exclusions, revoked ones included."""
    return connection.execute(_LIST).fetchall()


def count(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number and the period of the rows that the options select. Raises ExclusionError."""
    require_period(options)
    keys: list[Composable] = [
        SQL("{}::text = %({})s").format(Identifier(name), SQL(f"key_{index}"))
        for index, name in enumerate(options["key"])
    ]
    values = {f"key_{index}": value for index, value in enumerate(options["key"].values())}
    sql = _COUNT.format(
        time=Identifier(options["time"]), table=Identifier(options["table"]), keys=SQL(" and ").join(keys)
    )
    period = {name: options[name] for name in ("first", "until")}
    found = connection.execute(sql, {**period, **values}).fetchone() or {}
    if not found["rows"]:
        named = ", ".join(f"{name}={value}" for name, value in options["key"].items())
        raise ExclusionError(f"there is no row with {named} in this period")
    return found


def add(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add an exclusion; return its id and the rows that it covers now. Raises ExclusionError."""
    found = count(connection, options)
    row = connection.execute(_ADD, {**options, "key": Jsonb(options["key"])}).fetchone()
    return {**found, **(row or {})}


def revoke(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Revoke an exclusion and return it. Raises ExclusionError."""
    if connection.execute(_REVOKE, options).fetchone() is None:
        raise ExclusionError(f"there is no exclusion {options['id']} that is in force")
    return next(each for each in list_all(connection, options) if each["id"] == options["id"])


_COMMANDS: Mapping[str, Command] = {"list": list_all, "count": count, "add": add, "revoke": revoke}


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise ValueError
    return name, value


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser, parsers = options_parser(__doc__, text_option(_printable))
    for name in ("count", "add"):
        parsers[name].add_argument("--table", required=True)
        parsers[name].add_argument("--time", required=True)
        parsers[name].add_argument("--key", type=_pair, action="append", required=True)
    options = vars(parser.parse_args())
    return run("row_exclusions", _COMMANDS, {**options, "key": dict(options.get("key", ()))})


if __name__ == "__main__":
    sys.exit(main())
