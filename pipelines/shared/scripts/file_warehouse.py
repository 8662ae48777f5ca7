"""The private tables of a pipeline in one DuckDB file, and the record of the target with its history."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from compact import compact
from dbt_runner import Layout, run_dbt
from publish import publish, sync


@dataclass(frozen=True, slots=True)
class FileWarehouse:
    """One DuckDB file."""

    path: Path

    def exists(self) -> bool:
        """Return True if the file exists."""
        return self.path.exists()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open the file in UTC."""
        connection = duckdb.connect(str(self.path))
        connection.execute("set TimeZone = 'UTC'")
        return connection

    def require(self) -> None:
        """Do nothing: the file needs no other machine."""

    def run_dbt(self, layout: Layout, lock: int, options: Sequence[str]) -> int:
        """Build and test in the file."""
        return run_dbt(layout, lock, options)

    def publish(self, published: Path) -> None:
        """Compact the file if it has grown, and publish a copy."""
        compact(self.path)
        publish(self.path, published)

    def restore(self, published: Path) -> None:
        """Replace the file by a copy of the published one."""
        copy = self.path.with_suffix(".restored")
        for leftover in (copy, Path(f"{self.path}.wal")):
            leftover.unlink(missing_ok=True)
        if not published.exists():
            self.path.unlink(missing_ok=True)
            return
        shutil.copyfile(published, copy)
        os.replace(copy, self.path)


def read_target(data: Path) -> str:
    """Return the target with the history: file, lake or clickhouse; "" before the first build outside of a file."""
    path = data / "history_in"
    return path.read_text().strip() if path.exists() else ""


def write_target(data: Path, target: str) -> None:
    """Record the target with the history."""
    new = data / "history_in.new"
    new.write_text(target + "\n")
    sync(new)
    os.replace(new, data / "history_in")
    sync(data)
