"""The test state of the private warehouse: the last test of all rows, and the code and settings that built it.

The tests of a build check only the rows that it changed (dbt's macro `rows_to_test`). Without a state they check all
rows, which is always correct, only slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb

FULL_TEST_INTERVAL = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class TestState:
    """The time of the last test of all rows, and the fingerprint of the code that built them."""

    full_test_at: datetime
    fingerprint: str

    def full_test_is_due(self, now: datetime) -> bool:
        """Return True if the last test of all rows is older than a week."""
        return now - self.full_test_at >= FULL_TEST_INTERVAL


def read(connection: duckdb.DuckDBPyConnection) -> TestState:
    """Read the state; an empty one for a new warehouse or one without a completed build."""
    try:
        row = connection.execute("select full_test_at::varchar, fingerprint from landing.test_state").fetchone()
    except duckdb.CatalogException:
        row = None
    return TestState(datetime.fromisoformat(row[0]), row[1]) if row else TestState(datetime.min.replace(tzinfo=UTC), "")


def clear(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove the state before a full refresh: it is unknown until that succeeds."""
    connection.execute("drop table if exists landing.test_state")


def save(connection: duckdb.DuckDBPyConnection, state: TestState) -> None:
    """Record that all present rows have passed."""
    connection.execute(
        "create or replace table landing.test_state as select $1::timestamptz as full_test_at, $2 as fingerprint",
        [state.full_test_at.isoformat(), state.fingerprint],
    )
