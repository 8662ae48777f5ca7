"""The private tables of a pipeline, in which dbt builds: one DuckDB file, the lake, or ClickHouse.

The file `history_in` in the data folder names the target with the history. The inventory's `target` only gives
access to the lake or to ClickHouse: a pipeline without history begins there, one with a history stays in its file until
move_target.py has copied and compared all rows.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import warehouse_copy
from clickhouse import ClickHouse
from clickhouse_warehouse import ClickHouseWarehouse
from dbt_runner import Layout, run_dbt
from duckdb_sql import attach
from file_warehouse import FileWarehouse, read_target, write_target
from lake import CATALOG, Lake
from publish import publish


class Misplaced(Exception):
    """The history is in a target that this script does not reach."""


class Warehouse(Protocol):
    """The tables in which dbt builds."""

    def exists(self) -> bool:
        """Return True if there is a table."""

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open it in UTC."""

    def require(self) -> None:
        """Check that it can be built in. Raises StorageUnreachable, ClickHouseUnreachable, and ClickHouseError."""

    def run_dbt(self, layout: Layout, lock: int, options: Sequence[str]) -> int:
        """Build and test; return dbt's exit status."""

    def publish(self, published: Path) -> None:
        """Publish a copy of all tables, whose tests have passed."""

    def restore(self, published: Path) -> None:
        """Replace all rows by the published ones."""


@dataclass(frozen=True, slots=True)
class LakeWarehouse:
    """The lake; `folder` has room for a copy of it."""

    lake: Lake
    folder: Path

    def exists(self) -> bool:
        """Return True if the lake has a table."""
        return self.lake.exists()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open the lake in UTC."""
        return self.lake.connect()

    def require(self) -> None:
        """Check that the object storage answers. Raises StorageUnreachable."""
        self.lake.require_storage()

    def run_dbt(self, layout: Layout, lock: int, options: Sequence[str]) -> int:
        """Build and test in the lake."""
        return run_dbt(layout, lock, ["--target", "lake", *options])

    def publish(self, published: Path) -> None:
        """Mark the build in the lake, publish a file with its tables, and maintain the lake."""
        if rounded := self.lake.rounded_columns():
            print(
                f"warning: the lake rounds the values of {', '.join(rounded)}: cast numbers to bigint or "
                "decimal(38, 0), times to timestamptz, and intervals to seconds",
                file=sys.stderr,
            )
        self.lake.mark_published()
        write_target(self.folder, "lake")
        try:
            export(self.lake, self.folder / "export.duckdb", published)
        except duckdb.Error:
            self.require()  # of an outage, its own error
            raise
        try:
            self.lake.maintain()
        except duckdb.Error as error:
            # Nothing is lost: the next build does it.
            print(f"warning: the lake was not maintained: {error}", file=sys.stderr)

    def restore(self, published: Path) -> None:
        """Give all tables the rows of the newest published build."""
        self.lake.restore()


def export(lake: Lake, copy: Path, published: Path) -> None:
    """Publish a file with all tables, which no process may write meanwhile. Raises duckdb.Error."""
    for leftover in (copy, Path(f"{copy}.wal")):
        leftover.unlink(missing_ok=True)
    try:
        with lake.connect() as connection:
            attach(connection, copy, "exported")
            warehouse_copy.copy_all(connection, CATALOG, "exported")
            connection.execute("checkpoint exported; detach exported")
        copy.chmod(0o644)
        publish(copy, published)
    finally:
        copy.unlink(missing_ok=True)


def current(data: Path) -> Warehouse:
    """Return the warehouse that has the history of a pipeline, or will have it. Raises Misplaced."""
    file, lake, target = FileWarehouse(data / "warehouse.duckdb"), Lake.from_environment(), read_target(data)
    name = os.environ.get("PIPELINE", "weather")
    if target == "lake" and lake is None:
        raise Misplaced(
            f"Cannot build {name}: its history is in the lake, but the inventory has no `target: lake` for it. "
            f"Write it and run `homelab deploy`; `homelab pipeline move {name} --to file` moves the history back."
        )
    server = ClickHouse.from_environment()
    if server and not target and not file.exists():
        # Each build creates the file: after one that fails, the file must not count as the history.
        write_target(data, target := "clickhouse")
    if server and target == "clickhouse":
        return ClickHouseWarehouse(file, server)
    if server:
        print(
            f"warning: the history is in a file: `homelab pipeline move {name} --to clickhouse` moves it there",
            file=sys.stderr,
        )
    # With ClickHouse, the file has all tables, too: without a server, builds continue in it.
    if lake is None or target == "file" or (target != "lake" and file.exists()):
        if lake is not None:
            print(
                f"warning: the history is in a file: `homelab pipeline move {name} --to lake` moves it to the lake",
                file=sys.stderr,
            )
        return file
    return LakeWarehouse(lake, data)
