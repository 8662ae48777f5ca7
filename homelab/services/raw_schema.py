"""The tables, views and functions of project_data, and the check that all of them exist as they were made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from homelab.model import DatabaseGrant, Step
from homelab.paths import bundled_path
from homelab.services.database_grants import AppendRights, grants
from homelab.steps import Sql
from homelab.steps.postgres_objects import PSQL
from homelab.steps.queries import Query

_UPKEEP = AppendRights(
    "upkeep",
    (
        "upkeep.partitions()",
        "upkeep.clock_is_steady()",
        "upkeep.record_settings(text, text[], text[])",
        "upkeep.month_checksum(date)",
        "upkeep.archive(date, text, bigint, numeric)",
        "upkeep.unarchive(date)",
    ),
    ("upkeep.writer_lock",),
    # Only functions write these; rows in them would make a deletion look like retention.
    ("raw.dropped_months", "raw.dropped_runs", "raw.archived_months"),
)
_SCHEMAS = "relnamespace in (to_regnamespace('raw'), to_regnamespace('upkeep')) and not relispartition"
# The definitions of all objects, one a line, apart from the partitions, which come and go with the months.
_LINES = f"""(
    with objects as (
        select pg_class.*, relnamespace::regnamespace || '.' || relname as name from pg_class where {_SCHEMAS}
    )
    select concat_ws(' ', 'relation', name, relkind, case when relkind in ('v', 'm') then pg_get_viewdef(oid) end)
    from objects
    union all
    select concat_ws(' ', 'column', name || '.' || attname, format_type(atttypid, atttypmod),
                     case when attnotnull then 'not null' end, nullif(attidentity, ''), pg_get_expr(adbin, adrelid))
    from objects
    join pg_attribute on attrelid = objects.oid and attnum > 0 and not attisdropped
    left join pg_attrdef on adrelid = objects.oid and adnum = attnum
    where relkind in ('r', 'p')
    union all
    select concat_ws(' ', 'constraint', name || '.' || conname, pg_get_constraintdef(pg_constraint.oid))
    from objects join pg_constraint on conrelid = objects.oid
    union all
    select concat_ws(' ', 'function', pg_get_functiondef(pg_proc.oid))
    from pg_proc where prokind in ('f', 'p') and pronamespace in (to_regnamespace('raw'), to_regnamespace('upkeep'))
) as lines (line)"""
_CATALOG = f"(select md5(string_agg(line, E'\\n' order by line)) from {_LINES})"
_COMMENT = "obj_description(to_regnamespace('raw'), 'pg_namespace')"
# Raises an error with the names of the wanted definitions that are missing, of those that match the condition.
_REQUIRE = f"""
do $require$
declare
    missing text;
begin
    select string_agg(split_part(wanted, E'\\n', 1), '; ' order by wanted) into missing
    from unnest(current_setting('homelab.wanted')::text[]) as wanted
    where wanted not in (select line from {_LINES}) and {{condition}};
    if missing is not null then
        raise exception 'changed by hand: %', missing;
    end if;
end
$require$;
"""


def missing_tables() -> Query:
    """Return shell text that prints the missing tables and views, separated by commas; nothing without the weather.

    A role of the weather that may log in is the sign that the last deploy had the weather.
    """
    names = re.findall(r"^create (?:table if not exists|or replace view) ([\w.]+)", _text(), re.MULTILINE)
    listed = ", ".join(f"'{name}'" for name in names)
    return Query(
        PSQL,
        "project_data",
        f"select string_agg(name, ', ') from unnest(array[{listed}]) as name where to_regclass(name) is null "
        "and exists (select from pg_roles where rolname = 'analytics' and rolcanlogin)",
    )


def changed_tables() -> Query:
    """Return shell text that prints `t` if the objects are not as the last deploy made them."""
    return Query(PSQL, "project_data", f"select split_part({_COMMENT}, ' ', 3) <> {_CATALOG}")


def _text() -> str:
    return bundled_path("pipelines/weather/schema.sql").read_text()


def tables(command: str) -> Sql:
    """Return the step that creates the objects of `raw` and `upkeep`, and those that are missing.

    It fails, and names the difference, if a column or a constraint was dropped or changed by hand: its values are lost.

    The comment on `raw` keeps the hashes of the SQL text and of the objects that it made, so the step is applied again
    after a change of either.
    """
    raw = _text()
    digest = f"homelab {hashlib.sha256(raw.encode()).hexdigest()[:16]} "
    mark = f"'{digest}' || {_CATALOG}"
    # Missing tables, views and functions are made again. A table that exists keeps its columns and constraints.
    kept = (
        f"{_COMMENT} like '{digest}%' and split_part(wanted, ' ', 1) in ('column', 'constraint') and "
        "to_regclass(substring(wanted from '^\\w+ (\\w+\\.\\w+)')) is not null"
    )
    return Sql(
        "tables of raw",
        f"select {_COMMENT} = {mark}",
        "\n".join(
            [
                _wanted(raw),
                _REQUIRE.format(condition=kept),
                raw,  # it can run again at any time
                _REQUIRE.format(condition="true"),
                f"do $mark$ begin execute format('comment on schema raw is %L', {mark}); end $mark$;\n",
            ]
        ),
        "project_data",
        command,
        reason="missing, or not as homelab made them",
    )


def _wanted(raw: str) -> str:
    """Return psql's text that keeps the definitions of new objects in the setting homelab.wanted.

    The objects are made next to the existing ones, which have another schema meanwhile, and taken back.
    """
    inside = re.sub(r"^(begin|commit);$", "", raw, flags=re.MULTILINE)
    aside = "".join(
        f"select 'alter schema {name} rename to {name}_aside' where to_regnamespace('{name}') is not null \\gexec\n"
        for name in ("raw", "upkeep")
    )
    return (
        f"begin;\n{aside}{inside}\nselect array_agg(line)::text as wanted from {_LINES} \\gset\nrollback;\n"
        "select set_config('homelab.wanted', :'wanted', false) is null as kept \\gset\n"
    )


def raw_grants(
    grant: DatabaseGrant, command: str = PSQL, *, temporary: bool = False, after: Sequence[Step] = ()
) -> Sql:
    """Return the step that allows a role to read the raw tables, or to read and append; see `grants`."""
    return grants(grant, command, further=_UPKEEP, temporary=temporary, after=after)


def retention(months: int, command: str = PSQL) -> Sql:
    """Return the step that sets the number of full months of raw observations to keep; 0 keeps all."""
    title = f"retention of raw observations: {f'{months} months' if months else 'unlimited'}"
    return _months("retention", title, months, command)


def archive_policy(months: int, command: str = PSQL) -> Sql:
    """Return the step that sets the number of full months to keep before they move to object storage; 0 keeps all."""
    title = f"archive of raw observations: {f'after {months} months' if months else 'none'}"
    return _months("archive_policy", title, months, command)


def _months(table: str, title: str, months: int, command: str) -> Sql:
    """Return the step that writes a number of months to a table of `upkeep`."""
    return Sql(
        title,
        f"select coalesce((select months from upkeep.{table}), 0) = {months}",
        f"insert into upkeep.{table} (months) values ({months}) on conflict (one) do update "
        "set months = excluded.months;",
        "project_data",
        command,
    )
