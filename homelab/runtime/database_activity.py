"""The activity in PostgreSQL: its connections, and the statements that run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from homelab.host import UNREADABLE, Result
from homelab.steps.postgres_objects import PSQL
from homelab.steps.queries import Query

_SHOWN = 20  # statements
_SQL = f"""with others as (
    select * from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()
), busy as (
    select pid, datname as database, usename as role, state,
        greatest(extract(epoch from now() - coalesce(xact_start, query_start)), 0) as seconds,
        left(regexp_replace(query, '\\s+', ' ', 'g'), 500) as statement
    from others where state <> 'idle' order by seconds desc nulls last limit {_SHOWN}
)
select json_build_object(
    'connections', (select count(*) from others), 'limit', current_setting('max_connections')::int,
    'active', (select count(*) from others where state = 'active'),
    'idle_in_transaction', (select count(*) from others where state like 'idle in transaction%'),
    'sessions', (select coalesce(json_agg(busy), '[]') from busy))"""
_COUNTS = ("connections", "limit", "active", "idle_in_transaction")
ACTIVITY = Query(PSQL, "postgres", _SQL)


@dataclass(frozen=True, slots=True)
class DatabaseSession:
    """A connection with an open transaction or a running statement; `seconds` since the transaction's start."""

    pid: int
    database: str
    role: str
    state: str
    seconds: float
    statement: str


@dataclass(frozen=True, slots=True)
class DatabaseActivity:
    """The number of connections and their limit, and the sessions that are not idle, the longest first."""

    connections: int
    limit: int
    active: int
    idle_in_transaction: int
    sessions: Sequence[DatabaseSession] = ()

    @classmethod
    def parse(cls, answer: Result) -> Self | None:
        """Return the answer to `ACTIVITY`; None if PostgreSQL does not answer."""
        try:
            found: dict[str, Any] = json.loads(answer.text)
            sessions = [
                DatabaseSession(
                    int(each["pid"]),
                    str(each["database"]),
                    str(each["role"]),
                    str(each["state"]),
                    float(each["seconds"] or 0),
                    str(each["statement"]),
                )
                for each in found["sessions"]
            ]
            connections, limit, active, idle_in_transaction = (int(found[name]) for name in _COUNTS)
            return cls(connections, limit, active, idle_in_transaction, sessions)
        except UNREADABLE:
            return None
