"""The raw tables in PostgreSQL: append the new rows of a batch, skip those that are stored already.

Only the keys are staged: they are copied into a temporary table and compared, then the new rows are copied once, into
their final table. A lock that only writers can take serializes them, so that no row is stored twice. A row that
PostgreSQL refuses is quarantined alone; the others are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from struct import Struct
from typing import Self
from uuid import UUID

import psycopg
from run_counters import RunCounters
from spool import damaged_line, quarantine_line, unescape
from validation import printable

logging.getLogger("psycopg").addHandler(logging.NullHandler())  # it logs errors that it raises, too
Connection = psycopg.Connection[tuple[object, ...]]
# Held to the end of the transaction. The rows' `ingested_at` is the start of a later statement, so it follows the
# commit of the previous writer.
_LOCK = "lock table upkeep.writer_lock in exclusive mode"
_PROGRAM_LIMITS = "54"  # the class of SQLSTATE, such as the depth of nested JSON
_PREPARE = """
set lock_timeout = '60s';
-- The planner has no statistics of the temporary table: force one index lookup per key.
set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off;
create temporary table if not exists staged (line int, city text, dt text) on commit delete rows;
select upkeep.partitions();
"""
# An observation is stored after it was made: earlier months are not opened, nor those after the newest row, which has a
# later time than now if a clock was ahead. As literals for the whole batch the bounds mostly select one month.
_SPAN = """
select (to_timestamp(min(dt::bigint)) - interval '2 days')::text,
    (select coalesce(max(ingested_at), '-infinity') from raw.weather_observations)::text
from staged
"""
_STORED = """
select line from staged
where exists (
    select from raw.weather_observations as stored
    where stored.city = staged.city
        and stored.data ->> 'dt' = staged.dt collate "C"
        and stored.ingested_at >= to_timestamp(staged.dt::bigint) - interval '2 days'
        and stored.ingested_at >= %s::timestamptz
        and stored.ingested_at <= %s::timestamptz
)
"""
_STAGE_VERSIONS = """
create temporary table if not exists staged_versions (dt text, city text, units text, data jsonb) on commit delete rows
"""
# PostgreSQL does not know the revisions of an observation whose month was dropped or archived, but the marts do. A new
# one starts above them all: the numbers of each month that can be dropped begin with that of the month.
_REVISIONS = 10_000
_REPLACE = """
with span as materialized (
    select to_timestamp(min(dt::bigint)) - interval '2 days' as first from staged_versions
),
dropped as materialized (
    select (max(month) + interval '1 month 2 days') at time zone 'UTC' as until,
        ((extract(year from max(month)) * 12 + extract(month from max(month))) * %s)::int as revision
    from raw.dropped_months
)
insert into raw.weather_observations (city, units, data, revision)
select given.city, given.units, given.data,
    case when newest.revision is null then earlier.revision else greatest(newest.revision, earlier.revision) + 1 end
from staged_versions as given
cross join lateral (
    select coalesce(max(dropped.revision), 0) as revision from dropped
    where to_timestamp(given.dt::bigint) < dropped.until
) as earlier
left join lateral (
    select stored.revision, stored.units, stored.data
    from raw.weather_observations as stored
    where stored.city = given.city
        and stored.data ->> 'dt' = given.dt collate "C"
        and stored.ingested_at >= (select first from span)
    order by stored.revision desc
    limit 1
) as newest on true
where newest.revision is null or newest.units is distinct from given.units or newest.data <> given.data
returning revision
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
    replaced: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)

    def __add__(self, other: StoreResult) -> StoreResult:
        return StoreResult(
            self.stored + other.stored,
            self.unchanged + other.unchanged,
            self.quarantined + other.quarantined,
            self.replaced + other.replaced,
            self.refused + other.refused,
        )

    def counters(self, requests: int = 0) -> RunCounters:
        """Return the counters of a backfill with this result, which counts observations instead of cities."""
        return RunCounters(
            asked=self.stored + self.replaced + self.unchanged + self.quarantined,
            stored=self.stored + self.replaced,
            unchanged=self.unchanged,
            failed=self.quarantined,
            quarantined=self.quarantined,
            requests=requests,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines of a spool in storable form: each observation once."""

    lines: Sequence[bytes]
    observations: dict[bytes, bytes]  # by the beginning of the line: time and city
    quarantined: Sequence[bytes]

    @classmethod
    def of(cls, lines: Sequence[bytes], *, latest: bool = False) -> Self:
        """Split the lines by kind; with `latest`, keep the last version of an observation instead of the first."""
        observations, quarantined = dict[bytes, bytes](), list[bytes]()
        for line in lines:
            first = line.find(b"\t")
            second = line.find(b"\t", first + 1)
            if first > 0 and second > 0:
                key = line[:second]
                observations[key] = line if latest else observations.get(key, line)
            else:
                quarantined.append(line if first == 0 else damaged_line(line, "it has no fields"))
        return cls(lines, observations, quarantined)


def connect(application: str = "ingest_weather") -> Connection:
    """Connect with libpq's environment variables and prepare the session. Raises psycopg.Error."""
    connection = psycopg.connect(
        "",
        autocommit=True,
        application_name=application,
        prepare_threshold=None,
        # A connection that was cut silently ends after a minute.
        keepalives_idle=30,
        keepalives_interval=10,
        tcp_user_timeout=60_000,
    )
    try:
        connection.execute(_PREPARE)
    except psycopg.Error:
        connection.close()
        raise
    return connection


def store(connection: Connection, batch: Batch, *, replace: bool = False) -> StoreResult:
    """Store lines of a spool. Raises psycopg.Error; the caller then keeps the spool, and may store it again.

    With `replace`, observations that differ from their newest revision are stored as the next one.
    """
    try:
        return _store_once(connection, batch, replace)
    except psycopg.Error as error:
        if not is_row_error(error):
            raise
        # One bad value fails a whole COPY: halve the batch until it is alone.
        if len(batch.lines) > 1:
            half = len(batch.lines) // 2
            halves = (Batch.of(lines, latest=replace) for lines in (batch.lines[:half], batch.lines[half:]))
            return sum((store(connection, each, replace=replace) for each in halves), StoreResult())
        city, reason, line = refused_line(batch.lines[0], error)
        return _store_once(connection, Batch.of([line]), replace) + StoreResult(refused=[(city, reason)])


def is_row_error(error: psycopg.Error) -> bool:
    """Return True if a value in the batch causes the error: bad data, a violated check, or a limit of PostgreSQL.

    A row without a partition violates a check without a name; every row would.
    """
    if isinstance(error, psycopg.errors.CheckViolation):
        return error.diag.constraint_name is not None
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith(_PROGRAM_LIMITS)


def refused_line(line: bytes, error: psycopg.Error) -> tuple[str, str, bytes]:
    """Return the city, the reason and the line for the quarantine of a line that PostgreSQL refuses."""
    message = f"PostgreSQL refuses the response: {error.diag.message_primary}"
    dt, *fields = line.rstrip(b"\n").split(b"\t")
    if not dt or len(fields) != 3:
        return "unknown", message, damaged_line(line, message)
    city, units, data = (unescape(each) for each in fields)
    name = printable(city.decode(errors="backslashreplace"))
    return name, message, quarantine_line(name, units.decode(errors="backslashreplace"), message, data)


def _store_once(connection: Connection, batch: Batch, replace: bool) -> StoreResult:
    """Store the new observations and the quarantined responses in one transaction."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_LOCK)
        stored, replaced = (_replace if replace else _append)(cursor, batch.observations)
        if batch.quarantined:
            cursor.executemany(_QUARANTINE, list(map(_quarantine_fields, batch.quarantined)))
    unchanged = len(batch.lines) - len(batch.quarantined) - stored - replaced
    return StoreResult(stored, unchanged, len(batch.quarantined), replaced)


def _append(cursor: psycopg.Cursor[tuple[object, ...]], observations: Mapping[bytes, bytes]) -> tuple[int, int]:
    """Store the observations that are not stored in any revision; return their number, and 0 replaced ones."""
    known = _stored_keys(cursor, observations)
    if len(known) < len(observations):
        _copy(cursor, (line for number, line in enumerate(observations.values()) if number not in known))
    return len(observations) - len(known), 0


def _replace(cursor: psycopg.Cursor[tuple[object, ...]], observations: Mapping[bytes, bytes]) -> tuple[int, int]:
    """Store the observations that differ from their newest revision; return the numbers of new and replaced ones."""
    if not observations:
        return 0, 0
    cursor.execute(_STAGE_VERSIONS)
    with cursor.copy("copy staged_versions (dt, city, units, data) from stdin") as copy:
        copy.write(b"".join(observations.values()))
    revisions = [int(str(revision)) for (revision,) in cursor.execute(_REPLACE, [_REVISIONS])]
    new = sum(revision % _REVISIONS == 0 for revision in revisions)
    return new, len(revisions) - new


def _stored_keys(cursor: psycopg.Cursor[tuple[object, ...]], keys: Mapping[bytes, bytes]) -> set[object]:
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


def _quarantine_fields(line: bytes) -> list[str]:
    _, *fields = line.rstrip(b"\n").split(b"\t")
    return [printable(unescape(each).decode(errors="backslashreplace")) for each in fields]


def record_settings(connection: Connection, schedule: str, timezones: Mapping[str, str | None]) -> None:
    """Record the schedule and the cities' time zones, if they changed."""
    connection.execute(
        "select upkeep.record_settings(%s, %s::text[], %s::text[])",
        (schedule, list(timezones), list(timezones.values())),
    )


def record_start(connection: Connection, run: UUID, started: datetime) -> None:
    """Record the start of a run."""
    connection.execute(
        "insert into raw.ingestion_starts (run, started) values (%s, %s) on conflict do nothing", (run, started)
    )


def record_end(
    connection: Connection, run: UUID, counters: RunCounters, error: str | None, finished: datetime | None = None
) -> None:
    """Record the end of a run, by default at PostgreSQL's time. A run has one end, however often it is recorded."""
    values = asdict(counters)
    columns, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    connection.execute(
        f"insert into raw.ingestion_ends (run, finished, error, {columns}) "  # noqa: S608
        f"values (%s, coalesce(%s, now()), %s, {marks}) on conflict do nothing",
        (run, finished, error, *values.values()),
    )
