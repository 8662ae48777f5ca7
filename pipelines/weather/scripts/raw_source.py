"""PostgreSQL at the start of a build: its transactions, the counts of its raw rows, and the recorded settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg
from dbt_login import dbt_keywords

_FACTS = """
select (select system_identifier from pg_control_system())::text || '/' ||
        (select timeline_id from pg_control_checkpoint())::text || '/' ||
        (select oid from pg_database where datname = current_database())::text,
    pg_snapshot_xmin(now.snapshot)::text::bigint, pg_snapshot_xmax(now.snapshot)::text::bigint
from (select pg_current_snapshot() as snapshot) as now
"""
_PARTITIONS = """
select child.oid::bigint, child.relname, pg_relation_filenode(child.oid)::bigint, stat.n_tup_ins, stat.n_tup_upd,
    stat.n_tup_del
from pg_inherits
join pg_class as child on child.oid = inhrelid
join pg_stat_all_tables as stat on stat.relid = child.oid
where inhparent = 'raw.weather_observations'::regclass
"""
# A restored PostgreSQL gives the ids of lost rows to new ones: the times differ.
_CHECKSUM = "sum(id + (extract(epoch from ingested_at) * 1000000)::bigint)"
_NEW_ROWS = """
select tableoid::bigint, date_trunc('month', ingested_at at time zone 'UTC')::date, count(*), {checksum}
from raw.weather_observations
where inserted_xid >= {since}::text::xid8 and inserted_xid < {until}::text::xid8
group by 1, 2
"""
_COUNT = """
select date_trunc('month', ingested_at at time zone 'UTC')::date,
    count(*) filter (where inserted_xid < {since}::text::xid8),
    {checksum} filter (where inserted_xid < {since}::text::xid8),
    count(*) filter (where inserted_xid < {until}::text::xid8),
    {checksum} filter (where inserted_xid < {until}::text::xid8)
from raw.{partition}
group by 1
"""
_HOLDERS = """
select string_agg(format('process %%s (%%s %%s)', activity.pid, activity.usename, activity.application_name), ', ')
from pg_locks as held
join pg_stat_activity as activity using (pid)
where held.locktype = 'transactionid' and held.granted and held.mode = 'ExclusiveLock'
    and held.transactionid = ((%s::bigint %% 4294967296)::text)::xid
"""
RAW_COLUMNS = "id, city, ingested_at, units, revision, inserted_xid::text::bigint as inserted_xid, data::text as data"
ARCHIVED = "select month, url, rows, checksum from raw.archived_months order by month"
Counts = dict[date, tuple[int, int]]  # rows and their checksum by month


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition with PostgreSQL's counters of its changes, and its rows by month below the watermark."""

    oid: int
    changes: tuple[int, int, int, int]  # file, inserted, updated, deleted
    counts: Counts


@dataclass(frozen=True, slots=True)
class ArchivedMonth:
    """A month of raw rows in object storage: its Parquet file, and the number and the checksum of its rows."""

    month: date
    url: str
    rows: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Source:
    """PostgreSQL at the start of a build."""

    cluster: str
    oldest_running: int  # transaction id
    next_transaction: int
    holders: str | None
    partitions: Sequence[Partition]
    landed: Counts  # raw rows below the previous watermark
    dropped_months: frozenset[date]
    archived_months: Sequence[ArchivedMonth]
    schedules: Sequence[tuple[datetime, str]]
    timezones: Sequence[tuple[str, str]]

    def counts(self) -> Counts:
        """Return the raw rows below the new watermark by month."""
        return add(partition.counts for partition in self.partitions)


def add(counts: Iterator[Counts]) -> Counts:
    """Add the counts by month."""
    total: Counts = {}
    for each in counts:
        for month, (rows, checksum) in each.items():
            before = total.get(month, (0, 0))
            total[month] = before[0] + rows, before[1] + checksum
    return {month: value for month, value in total.items() if value[0]}


def read_source(landed_before: int | None, counted: Mapping[int, Partition]) -> Source:
    """Read PostgreSQL as the role of dbt, in one snapshot. Raises psycopg.Error.

    All rows before `landed_before` are landed. `counted` are the partitions at that time; without them, all rows are
    counted.
    """
    with psycopg.connect(**dbt_keywords(), application_name="dbt_build", autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute("begin isolation level repeatable read read only")
        cluster, oldest, following = _all(connection, _FACTS)[0]
        since = min(landed_before or 0, oldest)
        partitions, landed = _partitions(connection, counted, since, oldest)
        return Source(
            cluster=cluster,
            oldest_running=oldest,
            next_transaction=following,
            holders=_all(connection, _HOLDERS, (oldest,))[0][0] if oldest < following else None,
            partitions=partitions,
            landed=landed,
            dropped_months=frozenset(row[0] for row in _all(connection, "select month from raw.dropped_months")),
            archived_months=[
                ArchivedMonth(month, url, rows, int(checksum))
                for month, url, rows, checksum in _all(connection, ARCHIVED)
            ],
            schedules=_all(connection, "select valid_from, schedule from raw.schedules order by 1"),
            timezones=_all(
                connection, "select city, timezone from raw.city_settings where timezone is not null order by 1"
            ),
        )


def _all(connection: psycopg.Connection[Any], sql: str, values: Sequence[object] | None = None) -> list[Any]:
    return connection.execute(sql.encode(), values).fetchall()


def _partitions(
    connection: psycopg.Connection[Any], known: Mapping[int, Partition], since: int, until: int
) -> tuple[list[Partition], Counts]:
    """Return the partitions with their rows below `until`, and all rows below `since`.

    Only a partition whose rows were changed or removed is counted; to the others, the new rows are added.
    """
    new: dict[int, Counts] = {}
    if known:
        for oid, month, rows, checksum in _all(
            connection, _NEW_ROWS.format(checksum=_CHECKSUM, since=since, until=until)
        ):
            new.setdefault(oid, {})[month] = (rows, int(checksum))
    found: list[Partition] = []
    landed: list[Counts] = []
    for oid, name, *changes in _all(connection, _PARTITIONS):
        before, added = known.get(oid), new.get(oid, {})
        expected = before and (
            before.changes[0],
            before.changes[1] + sum(rows for rows, _ in added.values()),
            *before.changes[2:],
        )
        if before and expected == tuple(changes):
            found.append(Partition(oid, tuple(changes), add(iter((before.counts, added)))))
            landed.append(before.counts)
            continue
        counted = _all(connection, _COUNT.format(checksum=_CHECKSUM, partition=name, since=since, until=until))
        found.append(
            Partition(oid, tuple(changes), {month: (n, int(checksum or 0)) for month, _, _, n, checksum in counted})
        )
        landed.append({month: (n, int(checksum or 0)) for month, n, checksum, _, _ in counted})
    return found, add(iter(landed))
