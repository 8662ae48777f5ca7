"""The step for the exclusions of a pipeline's rows: a table in its schema, and a view of the rows that remain."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from homelab.host import Host, Result, check
from homelab.model import Pending, Step
from homelab.model.inventory import DATABASE
from homelab.model.pipelines import Corrections
from homelab.pipelines.layout import Layout
from homelab.steps.postgres_objects import literal
from homelab.steps.queries import Query

_TABLE = """
create table if not exists exclusions (
    id bigint generated always as identity primary key,
    key jsonb not null,
    first timestamptz not null,
    until timestamptz not null check (first < until),
    reason text not null,
    excluded_by text not null,
    created_at timestamptz not null default now(),
    revoked_at timestamptz,
    revoked_by text,
    revoke_reason text
);
comment on table exclusions is 'Rows that are left out: those with these values in key, from first to before until.';
"""


@dataclass(frozen=True, eq=False)
class ExclusionView(Step):
    """The table `exclusions` and the view of the rows that no exclusion covers; replaced if the table has changed."""

    layout: Layout
    corrections: Corrections
    part: str = ""
    triggered_by: Sequence[Step] = ()

    @property
    def title(self) -> str:
        """See Step."""
        return f"view {self.layout.pipeline.schema}.{self.corrections.view}"

    @property
    def is_current(self) -> str:
        """The SQL condition that the view is the wanted one, with the columns of its table."""
        columns = (
            "(select array_agg(attname order by attnum) from pg_attribute where attnum > 0 and not attisdropped "
            "and attrelid = to_regclass({}))"
        )
        schema = self.layout.pipeline.schema
        view, table = (literal(f"{schema}.{name}") for name in (self.corrections.view, self.corrections.table))
        return (
            f"coalesce(obj_description(to_regclass({view}), 'pg_class') = {literal(self._mark)} "
            f"and {columns.format(view)} = {columns.format(table)}, false)"
        )

    def probes(self) -> Sequence[str]:
        """See Step."""
        environment = self.layout.environment
        psql = f"[ -r {environment} ] || exit 1; set -a; . {environment}; psql"
        return (Query(psql, DATABASE, f"select {self.is_current}"),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not answers[0].ok:
            return Pending("not known yet")
        return None if answers[0].text == "t" else Pending("is missing, or its table has other columns")

    def apply(self, host: Host) -> None:
        """See Step."""
        command = self.layout.run("psql -X -q -v ON_ERROR_STOP=1 -f -")
        check(host, command, f"create the {self.title}", stdin=self.sql.encode())

    @property
    def sql(self) -> str:
        """The SQL that makes both, with the search path of the pipeline."""
        mark = f"comment on view {_name(self.corrections.view)} is {literal(self._mark)};"
        return f"begin;\nset local client_min_messages = warning;\n{_TABLE}{self._view}{mark}\ncommit;\n"

    @property
    def _view(self) -> str:
        table, time = _name(self.corrections.table), _name(self.corrections.time)
        keys = [
            f"(entry.key ->> {literal(key)} is null or entry.key ->> {literal(key)} = row.{_name(key)}::text)"
            for key in self.corrections.key
        ]
        conditions = ["entry.revoked_at is null", f"row.{time} >= entry.first", f"row.{time} < entry.until", *keys]
        return (
            f"create or replace view {_name(self.corrections.view)} as select row.* from {table} as row\n"
            f"where not exists (select from exclusions as entry where {' and '.join(conditions)});\n"
        )

    @property
    def _mark(self) -> str:
        return f"homelab {hashlib.sha256((_TABLE + self._view).encode()).hexdigest()[:16]}"


def _name(name: str) -> str:
    return f'"{name}"'
