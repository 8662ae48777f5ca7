"""Exclude observations from the marts, and include them again. No observation is deleted.

    exclusions.py list
    exclusions.py count  [--city NAME] --from TIME --to TIME
    exclusions.py add    [--city NAME] --from TIME --to TIME --reason TEXT --by NAME
    exclusions.py revoke --id NUMBER --reason TEXT --by NAME

An exclusion covers the observations of a city, or of all, from `--from` to before `--to`. Times are ISO 8601, in UTC if
they have no offset. The last line of standard output is a JSON document. Exit status: 0 success; 8 invalid options, or
there is nothing to exclude or to revoke; 1 PostgreSQL cannot be reached.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import psycopg
from contract import EXIT, Parser
from psycopg.rows import dict_row
from validation import printable

# Rows of earlier versions can lack a valid time; they are never excluded.
_COUNT = """
select count(*) as observations, count(distinct city) as cities, min(observed) as first, max(observed) as last
from (
    select city, case when data ->> 'dt' ~ '^[0-9]{1,11}$' then to_timestamp((data ->> 'dt')::bigint) end as observed
    from raw.weather_observations
    where %(city)s::text is null or city = %(city)s
) as stored
where observed >= %(first)s and observed < %(until)s
"""
_ADD = """
insert into raw.exclusion_entries (city, first, until, reason, excluded_by)
values (%(city)s, %(first)s, %(until)s, %(reason)s, %(by)s)
returning id
"""
_REVOKE = """
insert into raw.exclusion_entries (revokes, reason, excluded_by)
select id, %(reason)s, %(by)s from raw.exclusions where id = %(id)s and revoked_at is null
on conflict (revokes) do nothing
"""
_LIST = """
select id, city, first, until, reason, excluded_by, created_at, revoked_at, revoked_by from raw.exclusions order by id
"""

Connection = psycopg.Connection[dict[str, Any]]


class ExclusionError(Exception):
    """The options name nothing that can be excluded or revoked."""


def list_all(connection: Connection, _: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return all exclusions, revoked ones included."""
    return connection.execute(_LIST).fetchall()


def count(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number and the period of the observations that the options select. Raises ExclusionError."""
    if options["first"] >= options["until"]:
        raise ExclusionError("--from must be before --to")
    found = connection.execute(_COUNT, options).fetchone() or {}
    if not found["observations"]:
        raise ExclusionError(f"there is no observation of {options['city'] or 'any city'} in this period")
    return found


def add(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Add an exclusion; return its id and the observations that it covers now. Raises ExclusionError."""
    found = count(connection, options)
    return {**found, **(connection.execute(_ADD, options).fetchone() or {})}


def revoke(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Revoke an exclusion and return it. Raises ExclusionError."""
    if not connection.execute(_REVOKE, options).rowcount:
        raise ExclusionError(f"there is no exclusion {options['id']} that is in force")
    return next(each for each in list_all(connection, {}) if each["id"] == options["id"])


_COMMANDS: Mapping[str, Callable[[Connection, Mapping[str, Any]], object]] = {
    "list": list_all,
    "count": count,
    "add": add,
    "revoke": revoke,
}


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError
    return printable(text.strip())[:1000]


def _options() -> Mapping[str, Any]:
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {name: commands.add_parser(name) for name in _COMMANDS}
    for name in ("count", "add"):
        parsers[name].add_argument("--city", type=_text)
        parsers[name].add_argument("--from", dest="first", type=_time, required=True)
        parsers[name].add_argument("--to", dest="until", type=_time, required=True)
    parsers["revoke"].add_argument("--id", type=int, required=True)
    for name in ("add", "revoke"):
        parsers[name].add_argument("--reason", type=_text, required=True)
        parsers[name].add_argument("--by", type=_text, required=True)
    return vars(parser.parse_args())


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    options = _options()
    try:
        with psycopg.connect("", application_name="exclusions", row_factory=dict_row) as connection:
            connection.execute("set timezone = 'UTC'")
            answer = _COMMANDS[options["command"]](connection, options)
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
