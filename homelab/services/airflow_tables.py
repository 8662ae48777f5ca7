"""The tables of Airflow's metadata that hold connections, variables and pools, and the rows of declared ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from homelab.model import AirflowObjects, Connection, Pool, SecretName

SECRET, OTHER, HIDDEN = "(secret)", "(another value)", "(not shown)"


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the metadata: its key column, and its encrypted columns, each with the column of its flag."""

    name: str
    noun: str
    key: str
    encrypted: Mapping[str, str]


TABLES = (
    Table("connection", "connection", "conn_id", {"password": "is_encrypted", "extra": "is_extra_encrypted"}),
    Table("variable", "variable", "key", {"val": "is_encrypted"}),
    Table("slot_pool", "pool", "pool", {}),
)


def rows_of(objects: AirflowObjects, table: Table) -> dict[str, dict[str, Any]]:
    """Return the columns of each row of a table by its name; a secret is still its SecretName."""
    match table.noun:
        case "connection":
            return {name: _columns(each) for name, each in objects.connections.items()}
        case "variable":
            return {name: {"val": value} for name, value in objects.variables.items()}
    return {name: _columns(each) for name, each in objects.pools.items()}


def secrets_of(objects: AirflowObjects) -> Iterator[SecretName]:
    """Yield the names of all secrets."""
    for table in TABLES:
        yield from _secrets(rows_of(objects, table))


def _columns(row: Connection | Pool) -> dict[str, Any]:
    columns = {each.name: getattr(row, each.name) for each in fields(row)}
    return {name: None if value == {} else value for name, value in columns.items()}


def _secrets(value: Any) -> Iterator[SecretName]:
    if isinstance(value, SecretName):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets(each)


def reveal(value: Any, secret: Callable[[str], str]) -> Any:
    """Return a value with the secrets in place of their names."""
    match value:
        case SecretName():
            return secret(value)
        case Mapping():
            return {key: reveal(each, secret) for key, each in value.items()}
        case list():
            return [reveal(each, secret) for each in value]
    return value


def normal(column: str, value: Any) -> Any:
    """Return a column's value for a comparison: JSON is parsed, an empty value is None."""
    if isinstance(value, str) and column in ("extra", "val"):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        value = parsed if column == "extra" or not isinstance(parsed, str) else value
    return None if value in ("", {}) else value


def stored(value: Any) -> str | int | bool | None:
    """Return the value of a column as the table holds it."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def redact(declared: Any, value: Any, revealed: Any) -> Any:
    """Return a value without secrets: a part is shown only if the inventory declares it, and not as a secret.

    Any other one may be a secret: of an earlier inventory, or typed into the web UI.
    """
    match declared:
        case SecretName():
            return SECRET if value == revealed else OTHER
        case Mapping() if isinstance(value, Mapping):
            return {
                key: redact(declared[key], each, revealed[key]) if key in declared else HIDDEN
                for key, each in sorted(value.items())
            }
        case Mapping() | list() if any(_secrets(declared)):
            return SECRET if value == revealed else OTHER
    return value if value == revealed else OTHER
