"""Read access to the published file, and to the lake at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import duckdb
from duckdb_sql import literal
from lake import Lake


class NothingPublished(Exception):
    """No build has been published yet."""


def require_published(database: Path) -> None:
    """Check that a build has been published. Raises NothingPublished."""
    if not database.exists():
        raise NothingPublished(f"no build has been published yet: {database} does not exist")


def connect(database: Path) -> duckdb.DuckDBPyConnection:
    """Open this one file, without access to any other and with little memory. Raises NothingPublished."""
    require_published(database)
    connection = duckdb.connect(
        str(database),
        read_only=True,
        config={"memory_limit": "512MB", "threads": "2", "autoinstall_known_extensions": "false"},
    )
    _restrict(connection)
    return connection


def connect_at(lake: Lake, time: datetime) -> duckdb.DuckDBPyConnection:
    """Open the tables of the last build at a time, in the same way; one without an offset is in UTC.

    Raises NoSnapshot.
    """
    version = lake.version_at(time if time.tzinfo else time.replace(tzinfo=UTC))
    connection = lake.connect_read_only(version)
    # Statements need no other file than those of the lake.
    connection.execute(f"set allowed_directories = [{literal(lake.url)}]")
    _restrict(connection)
    return connection


def _restrict(connection: duckdb.DuckDBPyConnection) -> None:
    for setting in (
        "TimeZone = 'UTC'",
        f"search_path = '{','.join(_schemas(connection))}'",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        connection.execute(f"set {setting}")


def _schemas(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the schemas of the file in the order in which a table is looked up: `main` first, then `staging`."""
    found = connection.execute(
        "select schema_name from duckdb_schemas() where database_name = current_database() "
        "and regexp_full_match(schema_name, '[A-Za-z_][A-Za-z0-9_]*')"
    ).fetchall()
    names = {name for (name,) in found}
    return sorted(names, key=lambda name: (name != "main", name != "staging", name))
