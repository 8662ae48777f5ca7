"""The step that applies the versions of a pipeline's schema.sql, in order, with the privileges of its own role."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.model import Pending, SchemaVersion, Step
from homelab.model.inventory import DATABASE
from homelab.pipelines.layout import Layout
from homelab.steps.postgres_objects import literal
from homelab.steps.queries import Query

_APPLIED = re.compile(r"\b([0-9]{1,9}):([0-9a-f]{16})\b")  # the pipeline's role may write any comment


@dataclass(frozen=True, eq=False)
class SchemaVersions(Step):
    """The tables of a pipeline: each version of its schema.sql is applied once, in one transaction.

    The comment on the schema keeps the number and the hash of each applied version.
    """

    layout: Layout
    part: str = ""
    triggered_by: Sequence[Step] = ()

    @property
    def title(self) -> str:
        """See Step."""
        return f"tables of {self._schema}"

    @property
    def is_current(self) -> str:
        """The SQL condition that exactly these versions are applied."""
        applied = {version.number: _hash(version) for version in self._versions}
        comment = f"obj_description(to_regnamespace({literal(self._schema)}), 'pg_namespace')"
        return f"{comment} = {literal(_mark(applied))}" if applied else "true"

    def probes(self) -> Sequence[str]:
        """See Step."""
        environment = self.layout.environment
        psql = f"[ -r {environment} ] || exit 1; set -a; . {environment}; psql"
        schema = literal(self._schema)
        sql = f"select coalesce(obj_description(to_regnamespace({schema}), 'pg_namespace'), '')"
        return (Query(psql, DATABASE, sql),)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if not self._versions:
            return None
        if not answers[0].ok:
            return Pending("not known yet")
        applied = _parse(answers[0].text)
        if changed := self._changed(applied):
            return Pending(f"version {changed} of schema.sql differs from the applied one")
        missing = [str(version.number) for version in self._versions if version.number not in applied]
        return Pending(f"not applied: version {', '.join(missing)} of schema.sql") if missing else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError if an applied version differs."""
        applied = dict(_parse(check(host, self.probes()[0], f"read the {self.title}").text))
        if changed := self._changed(applied):
            raise HomelabError(
                f"Cannot apply schema.sql of the pipeline {self._name}: its version {changed} differs from the applied "
                "one",
                "The tables of this version exist already. Homelab applies each version only once.",
                f"Restore its text, and add the change at the end below a line `-- version {max(applied) + 1}`.",
            )
        for version in self._versions:
            if version.number in applied:
                continue
            applied[version.number] = _hash(version)
            check(
                host,
                self.layout.run("psql -X -q -v ON_ERROR_STOP=1 -f -"),
                f"apply version {version.number} of schema.sql of the pipeline {self._name}",
                stdin=self._transaction(version, applied).encode(),
            )

    @property
    def sql(self) -> str:
        """The text for psql that applies the missing versions, and fails if an applied one differs."""
        schema, applied = literal(self._schema), dict[int, str]()
        lines = []
        for version in self._versions:
            number, applied[version.number] = version.number, _hash(version)
            comment = f"' ' || coalesce(obj_description(to_regnamespace({schema}), 'pg_namespace'), '') || ' '"
            error = f"version {number} of schema.sql differs from the applied one"
            lines += [
                f"select {comment} like '% {number}:%' as is_applied, "
                f"{comment} like '% {number}:{_hash(version)} %' as is_equal \\gset",
                "\\if :is_applied",
                "\\if :is_equal",
                "\\else",
                f"do $$ begin raise exception '{error}'; end $$;",
                "\\endif",
                "\\else",
                f"{self._transaction(version, applied)}\\endif",
            ]
        return "\n".join([*lines, ""])

    def _transaction(self, version: SchemaVersion, applied: Mapping[int, str]) -> str:
        """Return the SQL that applies a version, and records it with the ones `applied` before."""
        mark = literal(_mark(applied))
        return f"begin;\n{version.sql}\n;comment on schema {self._schema} is {mark};\ncommit;\n"

    @property
    def _name(self) -> str:
        return self.layout.pipeline.name

    @property
    def _schema(self) -> str:
        return self.layout.pipeline.schema

    @property
    def _versions(self) -> Sequence[SchemaVersion]:
        return self.layout.pipeline.schema_versions

    def _changed(self, applied: Mapping[int, str]) -> int:
        """Return the first applied version that schema.sql does not have in this form; 0 if there is none."""
        wanted = {version.number: _hash(version) for version in self._versions}
        return next((number for number, digest in sorted(applied.items()) if wanted.get(number) != digest), 0)


def _hash(version: SchemaVersion) -> str:
    return hashlib.sha256(version.sql.encode()).hexdigest()[:16]


def _parse(comment: str) -> Mapping[int, str]:
    if not comment.startswith("homelab "):
        return {}
    return {int(number): digest for number, digest in _APPLIED.findall(comment)}


def _mark(applied: Mapping[int, str]) -> str:
    """Return the comment for these versions and their hashes."""
    return "homelab " + " ".join(f"{number}:{digest}" for number, digest in sorted(applied.items()))
