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

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from exclusion_commands import Command, Connection, ExclusionError, options_parser, require_period, run, text_option
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
# The marts keep the observations of months that were dropped or archived.
_IS_DROPPED = """
select exists (
    select from raw.dropped_months where %(first)s < (month + interval '1 month') at time zone 'UTC'
) and (
    %(city)s::text is null
    or exists (select from raw.city_settings where city = %(city)s)
    or exists (select from raw.weather_observations where city = %(city)s)
) as dropped
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


def list_all(connection: Connection, _: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return all exclusions, revoked ones included."""
    return connection.execute(_LIST).fetchall()


def count(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number and the period of the observations that the options select. Raises ExclusionError.

    With `dropped`, PostgreSQL has none of them any more, but the marts may.
    """
    require_period(options)
    found = connection.execute(_COUNT, options).fetchone() or {}
    if not found["observations"]:
        dropped = connection.execute(_IS_DROPPED, options).fetchone()
        if dropped and dropped["dropped"]:
            return {**found, **dropped}
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


_COMMANDS: Mapping[str, Command] = {"list": list_all, "count": count, "add": add, "revoke": revoke}


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    text = text_option(printable)
    parser, parsers = options_parser(__doc__, text)
    for name in ("count", "add"):
        parsers[name].add_argument("--city", type=text)
    return run("exclusions", _COMMANDS, vars(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
