"""The state of PostgreSQL that a build starts from: which raw rows are landed, and which ones the build has to read.

Increments do not depend on a clock. A build reads all rows of the transactions from the watermark on: the watermark is
the oldest transaction that was still running at the previous build (pg_snapshot_xmin), so every row below it was
visible then. Another cluster, timeline or database, or a cluster whose transactions are below the watermark, is a
restored one: everything is landed again.

Counts per month compare raw with landed rows below the watermark. A month that differs is landed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import duckdb
from raw_source import Counts, Partition, Source
from scheduled_times import expected_times

_HORIZON = timedelta(days=400)  # of the scheduled times, which are computed again when less than this half is left
_TABLES = """
create schema if not exists landing;
create table if not exists landing.source_state (
    build bigint, built_through bigint, landed_before bigint, landing_before bigint, cluster varchar,
    landed_again date[], as_of timestamptz, held_since timestamptz, holders varchar, full_test boolean
);
create table if not exists landing.raw_counts (
    partition bigint, file bigint, inserted bigint, updated bigint, deleted bigint, month date, rows bigint,
    checksum decimal(38, 0)
);
create table if not exists landing.removed_observations (
    city varchar, observation_timestamp timestamptz, removed_in bigint
);
create table if not exists landing.schedule (scheduled_at timestamptz);
create table if not exists landing.schedule_source (
    schedules varchar, computed_until timestamptz, hourly_before timestamptz
);
insert into landing.source_state select 0, 0, null, null, '', [], null, null, null, true
where not exists (from landing.source_state);
"""
# Earlier versions' type, of which a lake rounds values.
_ROUNDED = """
from duckdb_columns() where database_name = current_database() and schema_name = 'landing'
    and table_name = 'raw_counts' and data_type = 'HUGEINT'
"""
# Unlike `at time zone`, which needs a calendar for each row, the cost of this for each row is that of an addition.
_LANDED = """
select date_trunc('month', day)::date as month, sum(number)::bigint, sum(checksum) from (
    select make_timestamp(epoch_us(ingested_at))::date as day, count(*) as number,
        sum(id + epoch_us(ingested_at)) as checksum
    from landing.landing_weather where inserted_xid < $1 group by 1
) group by 1
"""
_REMEMBER_REMOVED = """
insert into landing.removed_observations
select distinct city, observation_timestamp, $1 from landing.landing_weather
where date_trunc('month', make_timestamp(epoch_us(ingested_at)))::date in (select unnest($2::date[]))
"""
_REMOVE = """
delete from landing.landing_weather
where date_trunc('month', make_timestamp(epoch_us(ingested_at)))::date in (select unnest($1::date[]))
"""
_EMPTY = date(1970, 1, 1)  # the month of a partition without rows


class CountsDiffer(Exception):
    """Raw and landed rows differ after the build."""


@dataclass(frozen=True, slots=True)
class State:
    """The record of the last complete build in the private warehouse."""

    build: int
    landed_before: int | None  # transaction id
    cluster: str
    held_since: datetime | None
    as_of: datetime | None
    partitions: Mapping[int, Partition]


def read_state(connection: duckdb.DuckDBPyConnection) -> State:
    """Create the state's tables if they are missing; return the state."""
    if connection.execute(_ROUNDED).fetchall():
        connection.execute("drop table landing.raw_counts")  # all rows are counted again
    connection.execute(_TABLES)
    build, landed_before, cluster, held_since, as_of = connection.execute(
        "select build, landed_before, cluster, held_since::varchar, as_of::varchar from landing.source_state"
    ).fetchall()[0]
    partitions: dict[int, Partition] = {}
    for oid, *changes, month, rows, checksum in connection.execute("from landing.raw_counts").fetchall():
        known = partitions.setdefault(oid, Partition(oid, (changes[0], changes[1], changes[2], changes[3]), {}))
        if rows:
            known.counts[month] = (rows, int(checksum))
    return State(build, landed_before, cluster, _time(held_since), _time(as_of), partitions)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def is_restored(state: State, source: Source) -> bool:
    """Return True if the landed rows are of another cluster, or of a later time than PostgreSQL."""
    if state.landed_before is None:
        return True
    return state.cluster != source.cluster or source.next_transaction < state.landed_before


def prepare(
    connection: duckdb.DuckDBPyConnection, state: State, source: Source, as_of: datetime, land_all: bool, test_all: bool
) -> list[date]:
    """Write the plan of a build; remove the landed rows of months that differ from raw, and return these months."""
    months: list[date] = []
    build = state.build + 1
    if not land_all:
        landed = _landed(connection, state.landed_before or 0)
        months = sorted(_differences(source.landed, landed, source.dropped_months))
    held_since = None
    if source.oldest_running < source.next_transaction:
        held_since = as_of if source.oldest_running != state.landed_before else state.held_since or state.as_of
    connection.begin()
    if months:
        connection.execute(_REMEMBER_REMOVED, [build, months])
        connection.execute(_REMOVE, [months])
    if land_all:
        connection.execute("delete from landing.removed_observations")
    connection.execute(
        "update landing.source_state set build = $1, built_through = case when $2 then 0 else built_through end, "
        "landed_before = case when $2 then null else landed_before end, landing_before = $3, landed_again = $4, "
        "as_of = $5, held_since = $6, holders = $7, full_test = $8",
        [build, land_all, source.oldest_running, months, as_of, held_since, source.holders, test_all],
    )
    _write_schedule(connection, source.schedules, as_of)
    connection.commit()
    return months


def _write_schedule(
    connection: duckdb.DuckDBPyConnection, schedules: Sequence[tuple[datetime, str]], as_of: datetime
) -> None:
    text = str([(valid_from.astimezone(UTC).isoformat(), schedule) for valid_from, schedule in schedules])
    known = connection.execute("select schedules, computed_until::varchar from landing.schedule_source").fetchone()
    if known and known[0] == text and (_time(known[1]) or as_of) >= as_of + _HORIZON / 2:
        return
    until = max(as_of, *(valid_from for valid_from, _ in schedules), as_of) + _HORIZON
    connection.execute("delete from landing.schedule; delete from landing.schedule_source")
    times = [time.replace(tzinfo=None) for time in expected_times(schedules, until)]
    connection.execute("insert into landing.schedule select timezone('UTC', unnest($1::timestamp[]))", [times])
    connection.execute(
        "insert into landing.schedule_source values ($1, $2, $3)", [text, until, schedules[0][0] if schedules else None]
    )


def _landed(connection: duckdb.DuckDBPyConnection, below: int) -> Counts:
    return {month: (rows, int(checksum)) for month, rows, checksum in connection.execute(_LANDED, [below]).fetchall()}


def _differences(raw: Counts, landed: Counts, dropped: frozenset[date]) -> set[date]:
    return {
        month for month in raw.keys() | landed.keys() if month not in dropped and raw.get(month) != landed.get(month)
    }


def complete(connection: duckdb.DuckDBPyConnection, source: Source) -> None:
    """Compare raw with landed counts and record the build as complete. Raises CountsDiffer."""
    raw, landed = source.counts(), _landed(connection, source.oldest_running)
    if months := sorted(_differences(raw, landed, source.dropped_months)):
        lines = [
            f"{month:%Y-%m}: {raw.get(month, (0, 0))[0]} raw, {landed.get(month, (0, 0))[0]} landed" for month in months
        ]
        raise CountsDiffer(
            f"Cannot publish: raw and landed observations differ\n{'; '.join(lines)}.\nRun `homelab pipeline rebuild`."
        )
    connection.begin()
    connection.execute(
        "update landing.source_state set built_through = build, landed_before = landing_before, cluster = $1",
        [source.cluster],
    )
    connection.execute("delete from landing.removed_observations")
    connection.execute("delete from landing.raw_counts")
    rows = [
        [partition.oid, *partition.changes, month, *counts]
        for partition in source.partitions
        for month, counts in (partition.counts or {_EMPTY: (0, 0)}).items()
    ]
    if rows:
        connection.executemany("insert into landing.raw_counts values (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.commit()
