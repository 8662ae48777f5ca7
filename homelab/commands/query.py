"""`homelab query`: SQL on the published marts, or on the newest readings."""

from __future__ import annotations

from datetime import datetime

from homelab.errors import InputError
from homelab.runtime.marts import Rows, query_marts
from homelab.runtime.session import Session
from homelab.runtime.weather_now import query_now


def query(session: Session, sql: str, pipeline: str | None, at: datetime | None = None, *, now: bool = False) -> Rows:
    """Return the rows of one statement on a pipeline's marts, at a time with `at`, or on `weather_now` with `now`.

    Raises HomelabError.
    """
    if now and (pipeline or at):
        raise InputError(
            f"Cannot query the newest readings: --now and {'--at' if at else '--pipeline'} cannot be combined",
            "--now reads `weather_now` in PostgreSQL, which has the newest reading of each city.",
            "Leave out one of them.",
        )
    if now:
        return query_now(session, sql)
    return query_marts(session, sql, pipeline, at)
