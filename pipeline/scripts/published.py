"""The published file, opened for reading."""

from __future__ import annotations

from pathlib import Path

import duckdb

NOTHING_YET = 3  # exit status: no build has been published


class NothingPublished(Exception):
    """No build has been published yet."""


def connect(database: Path) -> duckdb.DuckDBPyConnection:
    """A connection that can read this one file and nothing else, with little memory. Raises NothingPublished."""
    if not database.exists():
        raise NothingPublished(f"nothing has been published yet: {database} is not there")
    connection = duckdb.connect(
        str(database),
        read_only=True,
        config={"memory_limit": "512MB", "threads": "2", "autoinstall_known_extensions": "false"},
    )
    for setting in (
        "TimeZone = 'UTC'",
        "search_path = 'main,staging,landing'",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")
    return connection
