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

RAW = ("project_data", "raw")  # the database and the schema
_UPKEEP = AppendRights(
    "upkeep",
    ("upkeep.partitions()", "upkeep.record_settings(text, text[], text[])"),
    ("upkeep.writer_lock",),
    # Only retention writes these; rows in them would make a deletion look like retention.
    ("raw.dropped_months", "raw.dropped_runs"),
)
_SCHEMAS = "relnamespace in (to_regnamespace('raw'), to_regnamespace('upkeep')) and not relispartition"
# A hash of the definitions of all objects, apart from the partitions, which come and go with the months.
_CATALOG = f"""(
    with objects as (select * from pg_class where {_SCHEMAS})
    select md5(string_agg(line, E'\\n' order by line)) from (
        select concat_ws(' ', relkind, relname, case when relkind in ('v', 'm') then pg_get_viewdef(oid) end)
        from objects
        union all
        select concat_ws(' ', relname, attname, format_type(atttypid, atttypmod), attnotnull)
        from objects join pg_attribute on attrelid = objects.oid and attnum > 0 and not attisdropped
        union all
        select concat_ws(' ', relname, conname, pg_get_constraintdef(pg_constraint.oid))
        from objects join pg_constraint on conrelid = objects.oid
        union all
        select concat_ws(' ', nspname, pg_get_functiondef(pg_proc.oid))
        from pg_proc join pg_namespace on pg_namespace.oid = pronamespace and nspname in ('raw', 'upkeep')
        where prokind in ('f', 'p')
    ) as lines (line)
)"""


def missing_tables() -> Query:
    """Return shell text that prints the missing tables and views, separated by commas."""
    names = re.findall(r"^create (?:table if not exists|or replace view) ([\w.]+)", _text(), re.MULTILINE)
    listed = ", ".join(f"'{name}'" for name in names)
    return Query(
        PSQL,
        "project_data",
        f"select string_agg(name, ', ') from unnest(array[{listed}]) as name where to_regclass(name) is null",
    )


def _text() -> str:
    return (bundled_path("templates") / "postgres" / "project_data.sql").read_text()


def tables(command: str) -> Sql:
    """Return the step that creates the objects of `raw` and `upkeep`, and those that are missing.

    The comment on `raw` keeps the hashes of the SQL text and of the objects that it made, so the step is applied again
    after a change of either.
    """
    # The text can run again at any time.
    raw = _text()
    mark = f"'homelab {hashlib.sha256(raw.encode()).hexdigest()[:16]} ' || {_CATALOG}"
    return Sql(
        "tables of raw",
        f"select obj_description(to_regnamespace('raw'), 'pg_namespace') = {mark}",
        f"{raw}do $mark$ begin execute format('comment on schema raw is %L', {mark}); end $mark$;\n",
        "project_data",
        command,
        reason="missing, or not as homelab made them",
    )


def raw_grants(
    grant: DatabaseGrant, command: str = PSQL, *, temporary: bool = False, after: Sequence[Step] = ()
) -> Sql:
    """Return the step that allows a role to read the raw tables, or to read and append; see `grants`."""
    return grants(grant, command, further=_UPKEEP, temporary=temporary, after=after)
