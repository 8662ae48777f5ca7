"""Copy the private warehouse to a new file when it has grown: DuckDB reuses free blocks, but keeps the file's size.

A warehouse with ten times the rows is copied at a tenth of the builds, so the cost for each new row stays the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
from duckdb_sql import attach
from publish import sync
from warehouse_copy import CopyDiffers, count, path, tables

GROWTH = 1.15  # compared with the last copy


def compact(warehouse: Path) -> bool:
    """Replace the warehouse by a copy of its rows if it has grown, and return True if so. No process may have it open.

    The copy is complete and on disk before it replaces the file. Raises CopyDiffers, duckdb.Error and OSError.
    """
    copy = warehouse.with_suffix(".compact")
    _remove(copy)
    try:
        if not _copy(warehouse, copy):
            return False
        copy.chmod(warehouse.stat().st_mode & 0o777)
        sync(copy)
        os.replace(copy, warehouse)
    except (CopyDiffers, duckdb.Error, OSError):
        _remove(copy)  # an incomplete copy would keep a full disk full
        raise
    sync(warehouse.parent)
    return True


def _copy(warehouse: Path, copy: Path) -> bool:
    """Copy all rows to a new file if the warehouse has grown, and return True if so."""
    with duckdb.connect() as connection:
        attach(connection, warehouse, "warehouse")
        connection.execute("checkpoint warehouse")
        if warehouse.stat().st_size <= GROWTH * _last_size(connection):
            return False
        attach(connection, copy, "fresh")
        connection.execute("create schema if not exists warehouse.landing")
        connection.execute("create or replace table warehouse.landing.compaction (bytes bigint)")
        connection.execute("copy from database warehouse to fresh; checkpoint fresh")
        connection.execute("insert into fresh.landing.compaction values ($1)", [copy.stat().st_size])
        connection.execute("checkpoint fresh")
        if _counts(connection, "warehouse") != _counts(connection, "fresh"):
            raise CopyDiffers(f"Cannot compact {warehouse}: the copy has other rows")
        connection.execute("detach fresh; detach warehouse")
    return True


def _last_size(connection: duckdb.DuckDBPyConnection) -> int:
    try:
        row = connection.execute("select bytes from warehouse.landing.compaction").fetchone()
    except duckdb.CatalogException:
        return 0
    return row[0] if row else 0


def _counts(connection: duckdb.DuckDBPyConnection, database: str) -> dict[tuple[str, str], int]:
    found = [each for each in tables(connection, database) if each[1] != "compaction"]
    return {each: count(connection, path(database, *each)) for each in found}


def _remove(copy: Path) -> None:
    for leftover in (copy, Path(f"{copy}.wal")):
        leftover.unlink(missing_ok=True)
