"""The names and numbers that homelab relies on. contract.json defines them; homelab reads the same file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_CONTRACT = json.loads(Path(__file__).with_name("contract.json").read_text())


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """The exit statuses of all scripts, by meaning."""

    success: int
    failed: int
    bad_input: int  # options, configuration or a file
    nothing_published: int
    partial: int  # some rows are stored, others failed
    busy: int  # another run holds the lock
    key_refused: int
    build_failed: int  # a model or a test has failed: a repetition fails again


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


EXIT = ExitStatus(**_CONTRACT["exit_status"])
