"""Move the raw rows of old months between PostgreSQL and object storage.

A month is one Parquet file, `S3_URL/raw/weather_observations/MONTH-ROWS-CHECKSUM.parquet`. As its name has its content,
a run that was killed writes the same file again, and no run replaces a file by other rows. PostgreSQL removes the rows
in the transaction that records the file, and only if the file's rows, read back, are those that it has.

`--restore` moves all archived months back. The login is that of libpq's variables, the ingestion's role; S3_… are the
variables of the object storage. The last line of standard output is the list of the months. Exit status: 0 done, 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import object_storage
import psycopg
from contract import EXIT
from duckdb_sql import literal
from raw_source import ARCHIVED, RAW_COLUMNS, ArchivedMonth

MONTHS = "WEATHER_ARCHIVE_MONTHS"  # whole months to keep in PostgreSQL; 0 or missing: all
ARCHIVED_FILES = "WEATHER_ARCHIVED"  # dbt's variable: a glob of Parquet files with archived rows; empty: none
_OLDEST = "select date_trunc('month', min(ingested_at) at time zone 'UTC')::date from raw.weather_observations"
_IS_DUE = """
select %(month)s::date + interval '1 month'
    <= date_trunc('month', now() at time zone 'UTC') - make_interval(months => %(kept)s)
    and upkeep.clock_is_steady()
    and not exists (
        select from raw.weather_observations where inserted_xid >= %(landed)s::text::xid8
            and ingested_at >= %(month)s::date and ingested_at < %(month)s::date + interval '1 month'
    )
"""
_COLUMNS = ("id", "city", "ingested_at", "units", "revision", "inserted_xid", "data")
_ROWS = """
select {columns}
from raw.weather_observations
where ingested_at >= '{first}' and ingested_at < timestamptz '{first}' + interval '1 month' order by ingested_at, id
"""
# The same as upkeep.month_checksum.
_CHECKSUM = """
select count(*), coalesce(sum(('0x' || left(md5(concat_ws('|', id, city, epoch_us(ingested_at), coalesce(units, ''),
    revision, inserted_xid, data)), 15))::bigint), 0)
from read_parquet($1)
"""


# The ingestion's role. Read now: a build in the lake sets the variables to the role of dbt.
_LOGIN = {"user": os.environ.get("PGUSER"), "password": os.environ.get("PGPASSWORD")}


class ArchiveDiffers(Exception):
    """A file in object storage is missing, or has other rows than those that were archived."""


def archive_next(landed_before: int) -> date | None:
    """Move the oldest month to object storage if it is due and landed; return it, None if there is none.

    While the clock has not been steady for a week, no month is due.

    `landed_before` is the transaction before which all rows are landed. Raises psycopg.Error, duckdb.Error, OSError and
    ArchiveDiffers: then PostgreSQL has all of its rows.
    """
    kept = int(os.environ.get(MONTHS) or 0)
    if not kept:
        return None
    with _connect() as connection:
        month = _one(connection, _OLDEST)[0]
        values = {"month": month, "kept": kept, "landed": landed_before}
        if month is None or not _one(connection, _IS_DUE, values)[0]:
            return None
        rows, checksum = _one(connection, "select * from upkeep.month_checksum(%s)", [month])
        copy = ArchivedMonth(month, _url(month, rows, checksum), rows, int(checksum))
        with object_storage.connect(os.environ) as files:
            _write(files, copy)
            check(files, copy, copy.url)
        connection.execute("select upkeep.archive(%s, %s, %s, %s)", (month, copy.url, rows, checksum))
    return copy.month


def _url(month: date, rows: int, checksum: int) -> str:
    return f"{os.environ['S3_URL']}/raw/weather_observations/{month:%Y-%m}-{rows}-{checksum}.parquet"


def _write(files: duckdb.DuckDBPyConnection, copy: ArchivedMonth) -> None:
    """Write the rows of a month to object storage. A file appears when it is complete."""
    files.load_extension("postgres_scanner")
    files.execute("attach '' as pg (type postgres, read_only)")
    rows = f"postgres_query('pg', $sql${_ROWS.format(columns=RAW_COLUMNS, first=f'{copy.month} 00:00:00+00')}$sql$)"
    if "://" not in copy.url:
        Path(copy.url).parent.mkdir(parents=True, exist_ok=True)
    files.execute(f"copy (from {rows}) to {literal(copy.url)} (format parquet, compression zstd)")


def check(files: duckdb.DuckDBPyConnection, copy: ArchivedMonth, url: str) -> None:
    """Read a file back. Raises ArchiveDiffers if it does not have the rows of the month."""
    try:
        found = files.execute(_CHECKSUM, [url]).fetchone()
    except duckdb.IOException as error:
        raise ArchiveDiffers(f"Cannot read the archived month {copy.month:%Y-%m}: {error}") from error
    if found != (copy.rows, copy.checksum):
        raise ArchiveDiffers(f"Cannot use the archived month {copy.month:%Y-%m}: {copy.url} has other rows")


def fetch(months: Sequence[ArchivedMonth], folder: Path) -> str:
    """Copy archived months to a folder, for a build that reads all rows; return a glob of the files, empty without any.

    Raises duckdb.Error, OSError and ArchiveDiffers.
    """
    remove(folder)
    if not months:
        return ""
    folder.mkdir()
    with object_storage.connect(os.environ) as files:
        for each in months:
            file = str(folder / f"{each.month:%Y-%m}.parquet")
            try:
                files.execute(f"copy (from read_parquet($1)) to {literal(file)} (format parquet)", [each.url])
            except duckdb.IOException as error:
                raise ArchiveDiffers(f"Cannot read the archived month {each.month:%Y-%m}: {error}") from error
            check(files, each, file)
    return f"{folder}/*.parquet"


def remove(folder: Path) -> None:
    """Remove the copies of archived months."""
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    if folder.is_dir():
        folder.rmdir()


def restore() -> Sequence[date]:
    """Move all archived months back to PostgreSQL, one transaction each; return them. The files stay.

    Raises psycopg.Error, duckdb.Error and ArchiveDiffers.
    """
    restored = []
    with _connect() as connection, object_storage.connect(os.environ) as files:
        for first, url, count, checksum in connection.execute(ARCHIVED).fetchall():
            month = ArchivedMonth(first, url, count, int(checksum))
            check(files, month, month.url)
            with connection.transaction():
                connection.execute("select upkeep.unarchive(%s)", [month.month])
                _insert(connection, files, month)
                if _one(connection, "select * from upkeep.month_checksum(%s)", [first]) != (count, checksum):
                    raise ArchiveDiffers(f"Cannot restore {month.month:%Y-%m}: PostgreSQL has other rows of this month")
            restored.append(month.month)
    return restored


def _insert(connection: psycopg.Connection[Any], files: duckdb.DuckDBPyConnection, month: ArchivedMonth) -> None:
    names = ", ".join(_COLUMNS)
    # COPY keeps the ids; an INSERT would have to override the identity.
    with connection.cursor().copy(f"copy raw.weather_observations ({names}) from stdin".encode()) as target:
        rows = files.execute(
            "select id, city, epoch_us(ingested_at), units, revision, inserted_xid, data from read_parquet($1)",
            [month.url],
        )
        while batch := rows.fetchmany(5000):
            for identity, city, micros, units, revision, transaction, data in batch:
                time = f"{_moment(micros)}+00"
                target.write_row((identity, city, time, units, revision, str(transaction), data))


def _moment(micros: int) -> str:
    return str(datetime(1970, 1, 1) + timedelta(microseconds=micros))


def _connect() -> psycopg.Connection[Any]:
    connection = psycopg.connect("", application_name="archive", autocommit=True, **_LOGIN)  # type: ignore[arg-type]
    connection.execute("set timezone = 'UTC'")
    return connection


def _one(connection: psycopg.Connection[Any], sql: str, values: Any = None) -> tuple[Any, ...]:
    rows: list[tuple[Any, ...]] = connection.execute(sql.encode(), values).fetchall()
    return rows[0]


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--restore", action="store_true", required=True, help="move all archived months back")
    parser.parse_args()
    try:
        restored = restore()
    except (psycopg.Error, duckdb.Error, OSError, ArchiveDiffers) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps([f"{month:%Y-%m}" for month in restored]))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
