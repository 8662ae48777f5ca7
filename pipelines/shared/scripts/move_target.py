"""Move the history of a pipeline to the lake or to ClickHouse, or back to its file: `move_target.py --data FOLDER --to
lake|clickhouse|file`.

All tables are copied, and every row of every table is compared, before builds use the copy; no build runs meanwhile.
The source keeps its rows. The published file stays as it is until the next build. The file has all tables of
ClickHouse, too: a move back only compares them.

The last line of standard output is a JSON document. Exit status: 0 success, 1 the copy failed or differs, and nothing
has changed; 3 there is no history; 8 the pipeline has no lake, or no ClickHouse.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from clickhouse import ClickHouse, ClickHouseError, ClickHouseUnreachable
from clickhouse_warehouse import ClickHouseWarehouse
from contract import EXIT
from dbt_runner import exclusive
from duckdb_sql import attach
from file_warehouse import FileWarehouse, read_target, write_target
from lake import CATALOG, Lake
from publish import sync
from warehouse import Misplaced
from warehouse_copy import CopyDiffers, compare, copy_all, drop_all, tables


class NoHistory(Exception):
    """There is nothing to move."""


def move(data: Path, other: Lake | ClickHouse, target: str, timeout: float) -> dict[str, Any]:
    """Copy, compare and switch; return the numbers of tables and rows.

    `other` is the target other than the file. Raises CopyDiffers, NoHistory, Misplaced, duckdb.Error, and ClickHouse's
    errors.
    """
    file = FileWarehouse(data / "warehouse.duckdb")
    with exclusive(data / "build.lock", timeout):
        has = read_target(data) or ("file" if file.exists() else "")
        in_clickhouse = isinstance(other, ClickHouse)
        if has == "lake" and in_clickhouse:
            raise Misplaced("the history is in the lake: move it to the file first, with `target: lake`")
        if has == "clickhouse" and not in_clickhouse:
            has = "file"  # which has all tables
        if has == target:
            return {"moved": False, "tables": 0, "rows": 0}
        if isinstance(other, ClickHouse):
            if not file.exists():
                raise NoHistory
            found, rows = ClickHouseWarehouse(file, other).copy_and_compare(copy=target != "file")
        else:
            found, rows = (_to_lake if target == "lake" else _to_file)(other, file.path)
        write_target(data, target)
    return {"moved": True, "tables": found, "rows": rows}


def _to_lake(lake: Lake, file: Path) -> tuple[int, int]:
    with lake.connect() as connection:
        attach(connection, file, "source", read_only=True)
        # Rows of an earlier move are older than those of the file.
        connection.begin()
        drop_all(connection, CATALOG)
        copy_all(connection, "source", CATALOG)
        connection.commit()
        counts = compare(connection, "source", CATALOG)
    lake.mark_published()
    return counts


def _to_file(lake: Lake, file: Path) -> tuple[int, int]:
    copy = file.with_suffix(".moved")
    for leftover in (copy, Path(f"{copy}.wal")):
        leftover.unlink(missing_ok=True)
    try:
        with lake.connect_read_only() as connection:
            if not tables(connection, CATALOG):
                raise NoHistory
            attach(connection, copy, "moved")
            copy_all(connection, CATALOG, "moved")
            connection.execute("checkpoint moved")
            counts = compare(connection, CATALOG, "moved")
            connection.execute("detach moved")
        sync(copy)
        copy.replace(file)
        sync(file.parent)
    finally:
        copy.unlink(missing_ok=True)
    return counts


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--to", choices=["lake", "clickhouse", "file"], required=True)
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for a build")
    options = parser.parse_args()
    lake, server = Lake.from_environment(), ClickHouse.from_environment()
    other = server if options.to == "clickhouse" else lake if options.to == "lake" else lake or server
    if other is None:
        print(f"error: the pipeline has no {'lake' if options.to != 'clickhouse' else options.to}", file=sys.stderr)
        return EXIT.bad_input
    try:
        outcome = move(options.data.resolve(), other, options.to, options.wait)
    except NoHistory:
        print(f"error: {'the file' if other is server else 'the lake'} has no table", file=sys.stderr)
        return EXIT.nothing_published
    except (
        Misplaced,
        CopyDiffers,
        duckdb.Error,
        OSError,
        TimeoutError,
        ClickHouseError,
        ClickHouseUnreachable,
    ) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(outcome))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
