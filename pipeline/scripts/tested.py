"""What is known to be tested in the private warehouse: up to which row, when all of it, and by which code.

The tests of a build look at what is new since then (dbt's macro `untested`). Without this record they look at
everything, which is never wrong, only slower.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

IN_FULL_EVERY = timedelta(days=7)
_CODE = ("*.sql", "*.csv", "dbt_project.yml")


@dataclass(frozen=True, slots=True)
class Tested:
    """The tests looked at everything at `in_full`; `code` has built it."""

    in_full: datetime
    code: str

    def lately(self, now: datetime) -> bool:
        """Whether everything was looked at within the week."""
        return now - self.in_full < IN_FULL_EVERY


def code(project: Path, units: str) -> str:
    """A fingerprint of what the models mean: of their SQL, the seeds and the settings."""
    digest = hashlib.sha256(units.encode())
    for path in sorted(path for pattern in _CODE for path in project.rglob(pattern)):
        digest.update(f"\0{path.relative_to(project)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def read(warehouse: Path) -> Tested:
    """What is known: nothing of a new warehouse, nor of one that was built halfway or by an earlier version."""
    nothing = Tested(datetime.min.replace(tzinfo=UTC), "")
    if not warehouse.exists():
        return nothing
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("set TimeZone = 'UTC'")
        try:
            row = connection.execute("select in_full::varchar, code from landing.tested").fetchone()
        except duckdb.CatalogException:
            return nothing
    return Tested(datetime.fromisoformat(row[0]), row[1]) if row else nothing


def forget(warehouse: Path) -> None:
    """Have the next tests look at everything."""
    _change(warehouse, "update landing.tested set through = null")


def begin_anew(warehouse: Path) -> None:
    """Note that all is built anew: until that has gone well, nothing is known."""
    _change(warehouse, "drop table if exists landing.tested")


def _change(warehouse: Path, sql: str) -> None:
    if warehouse.exists():
        with duckdb.connect(str(warehouse)) as connection:
            connection.execute(sql)


def remember(connection: duckdb.DuckDBPyConnection, in_full: datetime, code: str) -> None:
    """Note that what is there now has passed."""
    connection.execute(
        "create or replace table landing.tested as select max(ingested_at) as through, "
        "$1::timestamptz as in_full, $2 as code from landing.landing_weather",
        [in_full.isoformat(), code],
    )
