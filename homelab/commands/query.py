"""`homelab query`: SQL on the published marts."""

from __future__ import annotations

from homelab.runtime.marts import Rows, query_marts
from homelab.runtime.session import Session


def query(session: Session, sql: str) -> Rows:
    """Return the rows of one statement. Raises InputError for SQL that DuckDB refuses, else HomelabError."""
    return query_marts(session, sql)
