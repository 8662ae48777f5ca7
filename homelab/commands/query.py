"""`homelab query`: SQL on the published marts."""

from __future__ import annotations

from datetime import datetime

from homelab.runtime.marts import Rows, query_marts
from homelab.runtime.session import Session


def query(session: Session, sql: str, pipeline: str | None, at: datetime | None = None) -> Rows:
    """Return the rows of one statement on a pipeline's marts, now or at an earlier time. Raises HomelabError."""
    return query_marts(session, sql, pipeline, at)
