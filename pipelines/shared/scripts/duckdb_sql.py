"""Names and values in the text of SQL for DuckDB, where it takes no parameters."""

from __future__ import annotations

from pathlib import Path

import duckdb


def literal(text: str) -> str:
    """Return a text as a literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def attach(connection: duckdb.DuckDBPyConnection, path: Path, name: str, *, read_only: bool = False) -> None:
    """Attach a DuckDB file under a name."""
    connection.execute(f"attach {literal(str(path))} as {name}{' (read_only)' if read_only else ''}")
