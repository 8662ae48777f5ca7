"""Connections, variables and pools of Airflow, as the inventory, a pipeline or a service declares them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from homelab.model.options import KeyNames, Option, SecretName
from homelab.model.stages import STAGES

_TEXT = "[A-Za-z0-9_.:/-]"
_CONNECTION_NAMES = KeyNames(
    rf"(?!({'|'.join(STAGES)})$)[A-Za-z0-9_.:/#!()-]{{1,200}}",
    f"must be a connection id: letters, digits and _ . : / # ! ( ) -, and not {' or '.join(STAGES)}, which are "
    "homelab's own",
)
_VARIABLE_NAMES = KeyNames(rf"{_TEXT}{{1,250}}", "must be a variable's key: letters, digits and _ . : / -")
_POOL_NAMES = KeyNames(
    rf"(?!default_pool$){_TEXT}{{1,250}}",
    "must be a pool's name: letters, digits and _ . : / -, and not default_pool, which is Airflow's own",
)


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


Connections = Annotated[
    Mapping[str, Connection],
    Option("Connections of Airflow by id.", expected="connections by id", keys=_CONNECTION_NAMES),
]
Variables = Annotated[
    Mapping[str, Any],
    Option(
        "Variables of Airflow by key: text, other values, which are stored as JSON, or `{secret: NAME}`.",
        expected="variables by key",
        keys=_VARIABLE_NAMES,
    ),
]
Pools = Annotated[
    Mapping[str, Annotated[Pool, Option(expected="a number of slots, or a mapping", shorthand="slots")]],
    Option("Pools of Airflow by name, each with its number of slots.", expected="pools by name", keys=_POOL_NAMES),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AirflowObjects:
    """Connections, variables and pools by their names."""

    connections: Connections = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)
    pools: Pools = field(default_factory=dict)

    def names(self) -> Iterable[tuple[str, str]]:
        """Yield the kind and the name of each object."""
        for kind, found in (("connection", self.connections), ("variable", self.variables), ("pool", self.pools)):
            yield from ((kind, name) for name in found)


def combined(parts: Iterable[AirflowObjects]) -> AirflowObjects:
    """Return the objects of all parts, whose names differ."""
    connections: dict[str, Connection] = {}
    variables: dict[str, Any] = {}
    pools: dict[str, Pool] = {}
    for part in parts:
        connections |= part.connections
        variables |= part.variables
        pools |= part.pools
    return AirflowObjects(connections=connections, variables=variables, pools=pools)
