"""The raw tables in PostgreSQL: append the new rows of a batch, skip those that are stored already.

Only the keys are staged: they are copied into a temporary table and compared, then the new rows are copied once, into
their final table. An advisory lock serializes all writers: no row is stored twice, and `ingested_at` grows in the order
of the commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from struct import Struct
from typing import Self
from uuid import UUID

import psycopg
from contract import RunCounters
from spool import quarantine_line, unescape

Connection = psycopg.Connection[tuple[object, ...]]
_LOCK = "1717, 1"
_PREPARE = """
set lock_timeout = '60s';
-- The planner has no statistics of the temporary table: force one index lookup per key.
set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off;
create temporary table if not exists staged (line int, city text, dt text) on commit delete rows;
select upkeep.partitions();
"""
# An observation is stored after it was made, and not tomorrow: only the months between are opened. As literals for the
# whole batch these bounds mostly select one month, and no key has to search for its own.
_SPAN = "select (to_timestamp(min(dt::bigint)) - interval '2 days')::text, (now() + interval '1 day')::text from staged"
_STORED = """
select line from staged
where exists (
    select from raw.weather_observations as stored
    where stored.city = staged.city
        and stored.data ->> 'dt' = staged.dt collate "C"
        and stored.ingested_at >= to_timestamp(staged.dt::bigint) - interval '2 days'
        and stored.ingested_at >= %s::timestamptz
        and stored.ingested_at < %s::timestamptz
)
"""
# COPY's binary format, which PostgreSQL reads without searching each byte for the end of a field: header and trailer;
# the head of a row (number of fields, length of the first); the length of a field; the version of jsonb.
_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_ROW_HEAD, _LENGTH, _JSONB = Struct("!hi"), Struct("!i"), b"\1"
_CHUNK = 500  # rows in one write to COPY
_QUARANTINE = """
insert into raw.quarantine (city, units, received_at, bytes, reason, body)
values (%s, %s, %s, %s, %s, decode(%s, 'hex')) on conflict do nothing
"""


@dataclass(slots=True)
class StoreResult:
    """Numbers of rows by outcome; `refused` has the city and reason of each row that PostgreSQL refused."""

    stored: int = 0
    unchanged: int = 0
    quarantined: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: StoreResult) -> StoreResult:
        return StoreResult(
            self.stored + other.stored,
            self.unchanged + other.unchanged,
            self.quarantined + other.quarantined,
            self.refused + other.refused,
        )

    def counters(self, requests: int = 0) -> RunCounters:
        """Return the counters of a backfill with this result, which counts observations instead of cities."""
        return RunCounters(
            asked=self.stored + self.unchanged + self.quarantined,
            stored=self.stored,
            unchanged=self.unchanged,
            failed=self.quarantined,
            quarantined=self.quarantined,
            requests=requests,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of a spool in storable form: each observation once, in its first version."""

    lines: Sequence[bytes]
    observations: dict[bytes, bytes]  # by the beginning of the line: time and city
    quarantined: Sequence[bytes]

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Self:
        """Split the lines by kind."""
        observations, quarantined = dict[bytes, bytes](), list[bytes]()
        for line in lines:
            tab = line.index(b"\t")
            if tab:
                observations.setdefault(line[: line.index(b"\t", tab + 1)], line)
            else:
                quarantined.append(line)
        return cls(lines, observations, quarantined)


def connect() -> Connection:
    """Connect with libpq's environment variables and prepare the session. Raises psycopg.Error."""
    connection = psycopg.connect("", autocommit=True, application_name="ingest_weather", prepare_threshold=None)
    try:
        connection.execute(_PREPARE)
    except psycopg.Error:
        connection.close()
        raise
    return connection


def store(connection: Connection, batch: Batch) -> StoreResult:
    """Store lines of a spool. Raises psycopg.Error; the caller then keeps the spool, and may store it again."""
    try:
        return _store_once(connection, batch)
    except psycopg.DataError as error:
        # One bad value fails a whole COPY: halve the batch until it is alone.
        if len(batch.lines) > 1:
            half = len(batch.lines) // 2
            return store(connection, Batch.of(batch.lines[:half])) + store(connection, Batch.of(batch.lines[half:]))
        dt, name, units, data = map(unescape, batch.lines[0].rstrip(b"\n").split(b"\t", 3))
        if not dt:
            raise
        city, reason = name.decode(), f"PostgreSQL refuses the response: {error.diag.message_primary}"
        result = _store_once(connection, Batch.of([quarantine_line(city, units.decode(), reason, data)]))
        return result + StoreResult(refused=[(city, reason)])


def _store_once(connection: Connection, batch: Batch) -> StoreResult:
    """Store the new observations and the quarantined responses in one transaction."""
    with _writer_lock(connection), connection.transaction(), connection.cursor() as cursor:
        known = _stored_keys(cursor, batch.observations)
        if len(known) < len(batch.observations):
            _copy(cursor, (line for number, line in enumerate(batch.observations.values()) if number not in known))
        if batch.quarantined:
            cursor.executemany(_QUARANTINE, list(map(_quarantine_fields, batch.quarantined)))
    stored = len(batch.observations) - len(known)
    return StoreResult(stored, len(batch.lines) - len(batch.quarantined) - stored, len(batch.quarantined))


def _stored_keys(cursor: psycopg.Cursor[tuple[object, ...]], keys: Collection[bytes]) -> set[object]:
    """Return the positions of the keys that are stored already."""
    if not keys:
        return set()
    with cursor.copy("copy staged (line, dt, city) from stdin") as copy:
        copy.write(b"".join(b"%d\t%s\n" % (number, key) for number, key in enumerate(keys)))
    span = cursor.execute(_SPAN).fetchone()
    return {number for (number,) in cursor.execute(_STORED, span)}


def _copy(cursor: psycopg.Cursor[tuple[object, ...]], lines: Iterator[bytes]) -> None:
    """Copy observations in chunks: PostgreSQL works on one while the next is encoded."""
    with cursor.copy("copy raw.weather_observations (city, units, data) from stdin (format binary)") as copy:
        copy.write(_HEADER)
        while chunk := b"".join(map(_binary_row, islice(lines, _CHUNK))):
            copy.write(chunk)
        copy.write(_TRAILER)


def _binary_row(line: bytes) -> bytes:
    _, city, units, data = line[:-1].split(b"\t")
    if b"\\" in line:
        city, data = unescape(city), unescape(data)
    return b"".join(
        (
            _ROW_HEAD.pack(3, len(city)),
            city,
            _LENGTH.pack(len(units)),
            units,
            _LENGTH.pack(len(_JSONB) + len(data)),
            _JSONB,
            data,
        )
    )


@contextmanager
def _writer_lock(connection: Connection) -> Iterator[None]:
    """Hold the writers' lock around a transaction, so that its now() is later than the previous commit."""
    connection.execute(f"select pg_advisory_lock({_LOCK})")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(f"select pg_advisory_unlock({_LOCK})")


def _quarantine_fields(line: bytes) -> list[str]:
    _, *fields = line.rstrip(b"\n").split(b"\t")
    return [unescape(each).decode() for each in fields]


def record_start(connection: Connection, run: UUID, started: datetime) -> None:
    """Record the start of a run."""
    connection.execute(
        "insert into raw.ingestion_starts (run, started) values (%s, %s) on conflict do nothing", (run, started)
    )


def record_end(connection: Connection, run: UUID, counters: RunCounters, error: str | None) -> None:
    """Record the end of a run."""
    values = asdict(counters)
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.execute(
        f"insert into raw.ingestion_ends (run, finished, error, {columns}) "  # noqa: S608
        f"values (%s, now(), %s, {marks})",
        (run, error, *values.values()),
    )
