"""The counters of one ingestion run, which weather_contract.json maps to those of the marts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RunCounters:
    """The counters of one ingestion run: the columns of raw.ingestion_ends."""

    asked: int = 0  # cities, or observations in a backfill
    stored: int = 0
    unchanged: int = 0  # stored by an earlier run
    failed: int = 0
    quarantined: int = 0  # also counted in `failed`
    spooled: int = 0  # waiting on disk for PostgreSQL
    recovered: int = 0  # stored now from the spool of an earlier run
    requests: int = 0
