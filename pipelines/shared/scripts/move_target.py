"""Move the history of a pipeline to the lake, or back to its file: `move_target.py --data FOLDER --to lake|file`.

All tables are copied, and every row of every table is compared, before builds use the copy; no build runs meanwhile.
The source keeps its rows. The published file stays as it is until the next build.

The last line of standard output is a JSON document. Exit status: 0 success, 1 the copy failed or differs, and nothing
has changed; 3 there is no history; 8 the pipeline has no lake.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import duckdb
from contract import EXIT
from dbt_runner import exclusive
from duckdb_sql import attach
from lake import CATALOG, Lake
from publish import sync
from warehouse import FileWarehouse, read_target, write_target
from warehouse_copy import CopyDiffers, compare, copy_all, drop_all, tables


class NoHistory(Exception):
    """There is nothing to move."""


def move(data: Path, lake: Lake, target: str, timeout: float) -> dict[str, Any]:
    """Copy, compare and switch; return the numbers of tables and rows. Raises CopyDiffers, NoHistory, duckdb.Error."""
    file = FileWarehouse(data / "warehouse.duckdb").path
    with exclusive(data / "build.lock", timeout):
        has = read_target(data) or ("file" if file.exists() else "lake")
        if has == target:
            return {"moved": False, "tables": 0, "rows": 0}
        found, rows = (_to_lake if target == "lake" else _to_file)(lake, file)
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
    parser.add_argument("--to", choices=["lake", "file"], required=True)
    parser.add_argument("--wait", type=float, default=900, help="seconds to wait for a build")
    options = parser.parse_args()
    lake = Lake.from_environment()
    if lake is None:
        print("error: the pipeline has no lake", file=sys.stderr)
        return EXIT.bad_input
    try:
        outcome = move(options.data.resolve(), lake, options.to, options.wait)
    except NoHistory:
        print("error: the lake has no table", file=sys.stderr)
        return EXIT.nothing_published
    except (CopyDiffers, duckdb.Error, OSError, TimeoutError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT.failed
    print(json.dumps(outcome))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
