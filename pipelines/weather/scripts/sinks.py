"""The destinations of the ingestion: PostgreSQL itself, or a broker whose consumer writes to PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

import psycopg
from raw_tables import Batch, Connection, StoreResult, connect, record_end, record_start, store
from run_counters import RunCounters


class SinkError(Exception):
    """The destination cannot be reached, or refuses all rows. The rows stay in the spool."""


class Sink(Protocol):
    """A destination. Its methods are called one after the other; each raises SinkError."""

    def connect(self, run: UUID, started: datetime) -> None:
        """Connect, and record the start of a run."""

    def store(self, batch: Batch) -> StoreResult:
        """Hand over a batch. It may be handed over again after an error."""

    def record_end(self, run: UUID, counters: RunCounters, error: str | None) -> None:
        """Record the end of a run."""

    def waiting(self) -> int:
        """Return the number of rows that were handed over and are not in PostgreSQL yet."""

    def close(self) -> None:
        """Close the connection, if there is one."""


class PostgresSink:
    """PostgreSQL: a batch is stored when `store` returns."""

    def __init__(self, prepare: Callable[[Connection], None] = lambda _: None) -> None:
        """`prepare` is called with each new connection."""
        self._prepare, self._connection = prepare, None

    _connection: Connection | None

    def connect(self, run: UUID, started: datetime) -> None:
        """Connect, and record the start of a run."""
        try:
            self._connection = connect()
            record_start(self._connection, run, started)
            self._prepare(self._connection)
        except psycopg.Error as error:
            raise _sink_error(error) from None

    def store(self, batch: Batch) -> StoreResult:
        """Store a batch."""
        try:
            return store(self._connected, batch)
        except psycopg.Error as error:
            raise _sink_error(error) from None

    def record_end(self, run: UUID, counters: RunCounters, error: str | None) -> None:
        """Record the end of a run."""
        try:
            record_end(self._connected, run, counters, error)
        except psycopg.Error as failure:
            raise _sink_error(failure) from None

    def waiting(self) -> int:
        """Return 0: a batch is stored when `store` returns."""
        return 0

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    @property
    def _connected(self) -> Connection:
        if self._connection is None:
            raise SinkError("PostgreSQL: not connected")
        return self._connection


def _sink_error(error: psycopg.Error) -> SinkError:
    return SinkError(f"PostgreSQL: {' '.join(str(error).split())}")
