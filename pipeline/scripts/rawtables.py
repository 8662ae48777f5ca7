"""The raw tables in Postgres: what is new of a batch is appended, and what is there already is left alone.

Only the keys are staged: they are copied into a temporary table and compared, and then the new rows are copied, once,
to where they belong. An advisory lock makes all writers follow one another, so nobody stores what another one is just
storing, and `ingested_at` grows in the order of the commits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from struct import Struct
from typing import Self
from uuid import UUID

import psycopg
from spool import bad, plain

Connection = psycopg.Connection[tuple[object, ...]]
_LOCK = "1717, 1"
_PREPARE = """
set lock_timeout = '60s';
-- Whatever the planner believes of tables that it has not looked at: each key is looked up in the index.
set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off;
create temporary table if not exists staged (line int, city text, dt text) on commit delete rows;
select upkeep.partitions();
"""
# An observation cannot have been stored before it was made, nor tomorrow: only the months between are opened. Told as
# literals for the whole batch, they are mostly one month, and then no key has to look for its own.
_SPAN = "select (to_timestamp(min(dt::bigint)) - interval '2 days')::text, (now() + interval '1 day')::text from staged"
_KNOWN = """
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
# COPY's binary format, in which Postgres need not look at each byte for the end of a field: how it begins and ends; the
# head of a row, its number of fields and the length of the first one; the length of a field; the version of a jsonb.
_BEGINS, _ENDS = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_HEAD, _LENGTH, _JSONB = Struct("!hi"), Struct("!i"), b"\1"
_CHUNK = 500  # rows that are handed to COPY at once
_QUARANTINE = """
insert into raw.quarantine (city, units, received_at, bytes, reason, body)
values (%s, %s, %s, %s, %s, decode(%s, 'hex')) on conflict do nothing
"""


@dataclass(slots=True)
class Outcome:
    """How many rows of a batch were new, known already, and kept in quarantine; whom Postgres refused, and why."""

    new: int = 0
    known: int = 0
    quarantined: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.new + other.new,
            self.known + other.known,
            self.quarantined + other.quarantined,
            self.refused + other.refused,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of a spool, made ready to store: each observation once, as it was first told."""

    lines: Sequence[bytes]
    told: dict[bytes, bytes]  # by time and city, as they begin the line
    bad: Sequence[bytes]

    @classmethod
    def of(cls, lines: Sequence[bytes]) -> Self:
        """Sort them out."""
        told, bad = dict[bytes, bytes](), list[bytes]()
        for line in lines:
            first = line.index(b"\t")
            if first:
                told.setdefault(line[: line.index(b"\t", first + 1)], line)
            else:
                bad.append(line)
        return cls(lines, told, bad)


def connect() -> Connection:
    """A connection by libpq's own variables, ready to store. Raises psycopg.Error."""
    connection = psycopg.connect("", autocommit=True, application_name="ingest_weather", prepare_threshold=None)
    try:
        connection.execute(_PREPARE)
    except psycopg.Error:
        connection.close()
        raise
    return connection


def store(connection: Connection, batch: Batch) -> Outcome:
    """Bring lines of a spool in. Raises psycopg.Error; then none of what is not committed is lost from the spool."""
    try:
        return _merge(connection, batch)
    except psycopg.DataError as error:
        # One value spoils a whole COPY: in halves, the others get in.
        if len(batch.lines) > 1:
            half = len(batch.lines) // 2
            return store(connection, Batch.of(batch.lines[:half])) + store(connection, Batch.of(batch.lines[half:]))
        dt, name, units, data = map(plain, batch.lines[0].rstrip(b"\n").split(b"\t", 3))
        if not dt:
            raise
        city, why = name.decode(), f"Postgres refuses the answer: {error.diag.message_primary}"
        outcome = _merge(connection, Batch.of([bad(city, units.decode(), why, data)]))
        return outcome + Outcome(refused=[(city, why)])


def _merge(connection: Connection, batch: Batch) -> Outcome:
    """One transaction: the lines that are new, and the bad ones."""
    with _alone(connection), connection.transaction(), connection.cursor() as cursor:
        known = _known(cursor, batch.told)
        if len(known) < len(batch.told):
            _append(cursor, (line for number, line in enumerate(batch.told.values()) if number not in known))
        if batch.bad:
            cursor.executemany(_QUARANTINE, list(map(_fields, batch.bad)))
    new = len(batch.told) - len(known)
    return Outcome(new, len(batch.lines) - len(batch.bad) - new, len(batch.bad))


def _known(cursor: psycopg.Cursor[tuple[object, ...]], keys: Collection[bytes]) -> set[object]:
    """The numbers of the keys that are stored already."""
    if not keys:
        return set()
    with cursor.copy("copy staged (line, dt, city) from stdin") as copy:
        copy.write(b"".join(b"%d\t%s\n" % (number, key) for number, key in enumerate(keys)))
    span = cursor.execute(_SPAN).fetchone()
    return {number for (number,) in cursor.execute(_KNOWN, span)}


def _append(cursor: psycopg.Cursor[tuple[object, ...]], lines: Iterator[bytes]) -> None:
    """Copy them where they belong; Postgres is at work on the first ones while the next ones are put together."""
    with cursor.copy("copy raw.weather_observations (city, units, data) from stdin (format binary)") as copy:
        copy.write(_BEGINS)
        while chunk := b"".join(map(_row, islice(lines, _CHUNK))):
            copy.write(chunk)
        copy.write(_ENDS)


def _row(line: bytes) -> bytes:
    """An observation as COPY's binary format has it."""
    _, city, units, data = line[:-1].split(b"\t")
    if b"\\" in line:
        city, data = plain(city), plain(data)
    return b"".join(
        (
            _HEAD.pack(3, len(city)),
            city,
            _LENGTH.pack(len(units)),
            units,
            _LENGTH.pack(len(_JSONB) + len(data)),
            _JSONB,
            data,
        )
    )


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Hold the writers' lock from before the transaction until after it: so now() comes after the last commit."""
    connection.execute(f"select pg_advisory_lock({_LOCK})")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(f"select pg_advisory_unlock({_LOCK})")


def _fields(line: bytes) -> list[str]:
    _, *fields = line.rstrip(b"\n").split(b"\t")
    return [plain(each).decode() for each in fields]


def began(connection: Connection, run: UUID, started: datetime) -> None:
    """Note that a run has begun."""
    connection.execute(
        "insert into raw.ingestion_starts (run, started) values (%s, %s) on conflict do nothing", (run, started)
    )


def ended(connection: Connection, run: UUID, counts: dict[str, int], error: str | None) -> None:
    """Note how a run has ended."""
    columns = ", ".join(counts)
    connection.execute(
        f"insert into raw.ingestion_ends (run, finished, error, {columns}) values (%s, now(), %s, "  # noqa: S608
        f"{', '.join(['%s'] * len(counts))})",
        (run, error, *counts.values()),
    )
