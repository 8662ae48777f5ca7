"""The raw rows of PostgreSQL in the lake, unchanged: the table raw_copy.weather_observations.

Its Parquet files are in a folder for each day of `ingested_at` (UTC); the lake's maintenance merges those of a day.
Each month is copied in one transaction, with the number and the checksum of its rows: so a killed build loses no
row and stores none twice. Archived months are read from their files. Months that the retention has
dropped from PostgreSQL stay here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import duckdb
from archive import check
from lake import CATALOG
from raw_source import RAW_COLUMNS, ArchivedMonth, Source

_TABLE = """
create table if not exists raw_copy.weather_observations (
    id bigint, city varchar, ingested_at timestamptz, units varchar, revision integer, inserted_xid bigint, data json,
    day date
)
"""
_MONTHS = """
create table raw_copy.months (month date, rows bigint, checksum decimal(38, 0), copied_before bigint, cluster varchar)
"""
_SET_COMPRESSION = f"""
call {CATALOG}.set_option('parquet_compression', 'zstd', schema => 'raw_copy', table_name => 'weather_observations')
"""
_TYPE = """
select data_type from duckdb_columns()
where database_name = $1 and schema_name = 'raw_copy' and table_name = 'months' and column_name = 'checksum'
"""
# Of earlier versions' HUGEINT, a lake rounds values.
_EXACT = """
create or replace table raw_copy.months as select * replace (checksum::decimal(38, 0) as checksum) from raw_copy.months
"""
_COUNT = """
select count(*), coalesce(sum(id + epoch_us(ingested_at)), 0) from raw_copy.weather_observations
where day between $1 and last_day($1)
"""
_OF_MONTH = """
select {columns} from raw.weather_observations
where ingested_at >= '{month} 00:00:00+00' and ingested_at < timestamptz '{month} 00:00:00+00' + interval '1 month'
    and inserted_xid >= '{since}' and inserted_xid < '{until}'
"""
_INSERT = """
insert into raw_copy.weather_observations
select id, city, ingested_at, units, revision, inserted_xid, data, make_timestamp(epoch_us(ingested_at))::date
from {rows}
"""
_DELETE = "delete from raw_copy.weather_observations where day between $1 and last_day($1)"
_FORGET = "delete from raw_copy.months where month = $1"
_RECORD = "insert into raw_copy.months values ($1, $2, $3, $4, $5)"


class RawCopyDiffers(Exception):
    """A month of the copy would have other rows than PostgreSQL."""


@dataclass(frozen=True, slots=True)
class _Copied:
    """A month of the copy: all its rows of transactions before `copied_before` of this cluster."""

    rows: int
    checksum: int
    copied_before: int
    cluster: str


def copy_raw(connection: duckdb.DuckDBPyConnection, source: Source) -> int:
    """Copy the raw rows below the watermark of a build; return the growth of the copy.

    Raises duckdb.Error, RawCopyDiffers and ArchiveDiffers: then the next build copies them.
    """
    found = connection.execute(_TYPE, [CATALOG]).fetchone()
    if not found:
        _create(connection)
    elif found[0] == "HUGEINT":
        connection.execute(_EXACT)
    known = {
        month: _Copied(rows, int(checksum), before, cluster)
        for month, rows, checksum, before, cluster in connection.execute("from raw_copy.months").fetchall()
    }
    grown = sum(_copy_archived(connection, each, known, source) for each in source.archived_months)
    wanted = source.counts()
    connection.execute("attach '' as raw_source (type postgres, read_only)")
    try:
        for month in sorted({*wanted, *known} - source.dropped_months):
            copied = known.get(month)
            if (copied and (copied.rows, copied.checksum)) != wanted.get(month):
                grown += _copy_month(connection, month, copied, source, wanted.get(month, (0, 0)))
    finally:
        connection.execute("detach raw_source")
    return grown


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables. The table of the months is the last one: copy_raw checks only its existence."""
    with _Transaction(connection):
        connection.execute("create schema if not exists raw_copy")
        connection.execute(_TABLE)
        connection.execute("alter table raw_copy.weather_observations set partitioned by (day)")
    connection.execute(_SET_COMPRESSION)
    connection.execute(_MONTHS)


def _copy_month(
    connection: duckdb.DuckDBPyConnection, month: date, copied: _Copied | None, source: Source, wanted: tuple[int, int]
) -> int:
    """Add the new rows of a month; if it still differs from PostgreSQL, copy all of its rows again."""

    def insert(since: int) -> bool:
        sql = _OF_MONTH.format(columns=RAW_COLUMNS, month=month, since=since, until=source.oldest_running)
        connection.execute(_INSERT.format(rows=f"postgres_query('raw_source', $sql${sql}$sql$)"))
        return connection.execute(_COUNT, [month]).fetchone() == wanted

    with _Transaction(connection):
        if not (copied and copied.cluster == source.cluster and insert(copied.copied_before)):
            connection.execute(_DELETE, [month])
            if not insert(0):
                raise RawCopyDiffers(f"{month:%Y-%m} has other rows in PostgreSQL than at the start of the build")
        _record(connection, month, _Copied(*wanted, source.oldest_running, source.cluster))
    return wanted[0] - (copied.rows if copied else 0)


def _copy_archived(
    connection: duckdb.DuckDBPyConnection, archived: ArchivedMonth, known: Mapping[date, _Copied], source: Source
) -> int:
    """Copy a month from its file, unless it was copied before it was archived."""
    copied = known.get(archived.month)
    if copied and copied.rows == archived.rows:
        return 0
    check(connection, archived, archived.url)
    with _Transaction(connection):
        connection.execute(_DELETE, [archived.month])
        connection.execute(_INSERT.format(rows="read_parquet($1)"), [archived.url])
        rows, checksum = connection.execute(_COUNT, [archived.month]).fetchall()[0]
        _record(connection, archived.month, _Copied(rows, checksum, source.oldest_running, source.cluster))
    return archived.rows - (copied.rows if copied else 0)


def _record(connection: duckdb.DuckDBPyConnection, month: date, copied: _Copied) -> None:
    connection.execute(_FORGET, [month])
    values = [month, copied.rows, copied.checksum, copied.copied_before, copied.cluster]
    connection.execute(_RECORD, values)


class _Transaction:
    """A transaction, which is rolled back after an error."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.begin()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._connection.rollback()
        else:
            self._connection.commit()
