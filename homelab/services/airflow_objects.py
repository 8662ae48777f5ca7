"""Connections, variables and pools of Airflow, as the inventory declares them, and the rows that they become."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from homelab.model import KeyNames, Option, SecretName
from homelab.pipeline_contract import CONNECTION_ID

_TEXT = "[A-Za-z0-9_.:/-]"
CONNECTION_NAMES = KeyNames(
    rf"(?!{CONNECTION_ID}$)[A-Za-z0-9_.:/#!()-]{{1,200}}",
    f"must be a connection id: letters, digits and _ . : / # ! ( ) -, and not {CONNECTION_ID}, which is homelab's own",
)
VARIABLE_NAMES = KeyNames(rf"{_TEXT}{{1,250}}", "must be a variable's key: letters, digits and _ . : / -")
POOL_NAMES = KeyNames(
    rf"(?!default_pool$){_TEXT}{{1,250}}",
    "must be a pool's name: letters, digits and _ . : / -, and not default_pool, which is Airflow's own",
)
SECRET, OTHER, HIDDEN = "(secret)", "(another value)", "(not shown)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A connection: the address and the credentials of another system, for hooks and operators."""

    conn_type: Annotated[str, Option("Type, such as `postgres` or `http`.", examples=("postgres",))]
    host: Annotated[str | SecretName | None, Option("Host name, address or URL.")] = None
    port: Annotated[int | None, Option("Port.", low=1, high=65535)] = None
    schema: Annotated[str | None, Option("Schema or database.")] = None
    login: Annotated[str | SecretName | None, Option("User name.")] = None
    password: Annotated[SecretName | None, Option("Password, as `{secret: NAME}`.")] = None
    extra: Annotated[
        Mapping[str, Any], Option("Further settings; each value may be `{secret: NAME}`.", expected="a mapping")
    ] = field(default_factory=dict)
    description: Annotated[str | None, Option("Description for the web UI.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool: the number of tasks that may run in parallel in it."""

    slots: Annotated[int, Option("Number of slots; -1: unlimited.", low=-1)]
    include_deferred: Annotated[bool, Option("Count deferred tasks as well.")] = False
    description: Annotated[str | None, Option("Description for the web UI.")] = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the metadata: its key column, and the columns that it encrypts, each with the flag for that."""

    name: str
    noun: str
    key: str
    encrypted: Mapping[str, str]


TABLES = (
    Table("connection", "connection", "conn_id", {"password": "is_encrypted", "extra": "is_extra_encrypted"}),
    Table("variable", "variable", "key", {"val": "is_encrypted"}),
    Table("slot_pool", "pool", "pool", {}),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowObjects:
    """Connections, variables and pools by their names; a variable that is not text is stored as JSON."""

    connections: Mapping[str, Connection] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)

    def rows(self, table: str) -> dict[str, dict[str, Any]]:
        """Return the columns of each row of a table by its name; a secret is still its SecretName."""
        match table:
            case "connection":
                return {name: _columns(each) for name, each in self.connections.items()}
            case "variable":
                return {name: {"val": value} for name, value in self.variables.items()}
        return {name: _columns(each) for name, each in self.pools.items()}

    def secrets(self) -> Iterator[SecretName]:
        """Yield the names of all secrets."""
        for table in TABLES:
            yield from _secrets(self.rows(table.name))


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
    """Return a column's value in the form in which two are compared: parsed JSON, and None for an empty one."""
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
    """Return a value without secrets: a part is shown only where the inventory declares one that is no secret."""
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
    return value
