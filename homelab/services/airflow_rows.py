"""The step that keeps the rows of Airflow's metadata as the inventory declares them.

A comment on each table lists the rows that homelab created. The step removes only these, and overwrites no others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from homelab.errors import HomelabError
from homelab.host import UNREADABLE, Host, Result, check, expected_format
from homelab.model import AirflowObjects, Pending, Secret, SecretName, Step
from homelab.services.airflow_metadata import DATABASE, METADATA, in_metadata
from homelab.services.airflow_tables import HIDDEN, TABLES, Table, normal, redact, reveal, rows_of, stored
from homelab.shortening import file_diff
from homelab.steps.postgres_objects import literal, run_sql
from homelab.steps.queries import NO_CONNECTION

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_MARK = "homelab: "  # at the beginning of the comment, before the JSON list of names


@dataclass(frozen=True, eq=False)
class MetadataRows(Step):
    """Connections, variables and pools; `secrets` has the value of each secret, `fernet_key` encrypts in the tables."""

    objects: AirflowObjects
    secrets: Mapping[str, Secret] = field(repr=False)
    fernet_key: Secret = field(repr=False)

    @property
    def title(self) -> str:
        """See Step."""
        return "connections, variables and pools"

    def probes(self) -> Sequence[str]:
        """See Step."""
        tables = ", ".join(self._read(table) for table in TABLES)
        return (in_metadata(f"select json_build_object({tables})"),)

    def _read(self, table: Table) -> str:
        names = ", ".join(map(literal, rows_of(self.objects, table)))
        condition = f"{table.key} in ({names})" if names else "false"
        rows = f"select json_object_agg({table.key}, row_to_json(each)) from {table.name} as each where {condition}"
        comment = f"obj_description('{table.name}'::regclass, 'pg_class')"
        return f"'{table.name}', json_build_object('comment', {comment}, 'rows', ({rows}))"

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        try:
            differences = self._differences(answers[0])
        except UNREADABLE:
            return Pending("cannot be read")
        if not differences:
            return None
        if answers[0].status == NO_CONNECTION:
            return Pending("not known yet")
        foreign = [str(each) for each in differences if each.foreign]
        if foreign:
            return Pending(f"made by hand, and different: {', '.join(foreign)}", effect="refused")
        reason = ", ".join(f"{each.verb} {each}" for each in differences)
        old, new = ("".join(text(each) for each in differences).encode() for text in (_Difference.old, _Difference.new))
        return Pending(reason, file_diff("/connections, variables, pools", old, new))

    def _differences(self, answer: Result) -> list[_Difference]:
        """Return the rows that differ; all rows if there are no tables yet."""
        found = json.loads(answer.text) if answer.ok and answer.text else {}
        return [each for table in TABLES for each in self._of_table(table, found.get(table.name) or {})]

    def _of_table(self, table: Table, found: Mapping[str, Any]) -> Iterator[_Difference]:
        rows, wanted = found.get("rows") or {}, rows_of(self.objects, table)
        managed = _managed(found.get("comment"))
        for name, declared in wanted.items():
            row = {column: self._decrypted(table, rows[name], column) for column in declared} if name in rows else None
            revealed = reveal(declared, self._reveal)
            same = row is not None and all(normal(c, row[c]) == normal(c, revealed[c]) for c in declared)
            if not same or name not in managed:
                foreign = row is not None and not same and name not in managed
                yield _Difference(table, name, declared, revealed, row, foreign)
        for name in sorted(managed - set(wanted)):
            yield _Difference(table, name, None, {}, {})

    def _reveal(self, name: str) -> str:
        return self.secrets[name].reveal()

    def _fernet(self) -> Fernet:
        from cryptography.fernet import Fernet

        return Fernet(self.fernet_key.reveal())

    def _decrypted(self, table: Table, row: Mapping[str, Any], column: str) -> Any:
        """Return the value of a column; a placeholder for one that another key has encrypted."""
        value = row.get(column)
        flag = table.encrypted.get(column)
        if not value or not flag or not row.get(flag):
            return value
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet().decrypt(value.encode()).decode()
        except InvalidToken:
            return HIDDEN

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError for a row that was made by hand and differs."""
        answer = check(host, self.probes()[0], "read Airflow's connections, variables and pools")
        with expected_format(host.name, "read Airflow's connections, variables and pools"):
            differences = self._differences(answer)
        if foreign := [str(each) for each in differences if each.foreign]:
            raise HomelabError(
                f"Cannot change Airflow's {foreign[0]}: it was made by hand",
                f"It differs from the inventory; homelab did not create it. All such objects: {', '.join(foreign)}.",
                "Delete it in Airflow's web UI (Admin), or remove it from the inventory; then run `homelab deploy` "
                "again.",
            )
        if not differences:
            return
        statements = [text for each in differences for text in each.sql(self._encrypt)]
        marks = [_comment(table, self.objects) for table in TABLES if any(each.table is table for each in differences)]
        sql = "\n".join(["begin;", *statements, *marks, "commit;\n"])
        run_sql(host, METADATA, DATABASE, sql, "write Airflow's connections, variables and pools")

    def _encrypt(self, text: str) -> str:
        return self._fernet().encrypt(text.encode()).decode()


def _managed(comment: object) -> set[str]:
    """Return the names in a comment; empty for the comment of another program."""
    if not isinstance(comment, str) or not comment.startswith(_MARK):
        return set()
    return {name for name in json.loads(comment.removeprefix(_MARK)) if isinstance(name, str)}


def _comment(table: Table, objects: AirflowObjects) -> str:
    names = json.dumps(sorted(rows_of(objects, table)))
    return f"comment on table {table.name} is {literal(_MARK + names)};"


@dataclass(frozen=True)
class _Difference:
    """A row that differs: the declared columns (None: it is removed), the same with secrets, and the row found."""

    table: Table
    name: str
    declared: Mapping[str, Any] | None
    revealed: Mapping[str, Any] = field(repr=False)
    found: Mapping[str, Any] | None = field(repr=False)  # None: no such row
    foreign: bool = False

    def __str__(self) -> str:
        return f"{self.table.noun} {self.name}"

    @property
    def verb(self) -> str:
        """The change, as a verb."""
        return "remove" if self.declared is None else "create" if self.found is None else "change"

    def old(self) -> str:
        """Return the lines of the row that was found, without secrets."""
        return "" if self.found is None else self._lines(self.found)

    def new(self) -> str:
        """Return the lines of the declared row, without secrets."""
        return "" if self.declared is None else self._lines(self.revealed)

    def _lines(self, row: Mapping[str, Any]) -> str:
        lines = [f"{self}:"]
        for column, declared in (self.declared or {}).items():
            value = normal(column, row.get(column))
            if value is None:
                continue
            if column in ("password", "extra") and not declared:
                value = HIDDEN
            elif column in self.table.encrypted or isinstance(declared, SecretName):
                value = redact(declared, value, normal(column, self.revealed[column]))
            lines.append(f"  {column}: {stored(value)}")
        return "".join(f"{line}\n" for line in lines)

    def sql(self, encrypt: Callable[[str], str]) -> Iterator[str]:
        """Yield the statement that creates, changes or removes the row."""
        table = self.table
        if self.declared is None:
            yield f"delete from {table.name} where {table.key} = {literal(self.name)};"
            return
        values: dict[str, Any] = {table.key: self.name}
        for column, value in self.revealed.items():
            text = stored(value) if column in table.encrypted else value
            flag = table.encrypted.get(column)
            values[column] = encrypt(str(text)) if flag and text else text
            if flag:
                values[flag] = bool(text)
        columns = ", ".join(values)
        update = ", ".join(f"{column} = excluded.{column}" for column in values if column != table.key)
        yield (
            f"insert into {table.name} ({columns}) values ({', '.join(map(_literal, values.values()))}) "
            f"on conflict ({table.key}) do update set {update};"
        )


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool | int) else literal(str(value))
