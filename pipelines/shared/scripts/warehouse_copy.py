"""Copy all tables and views of one attached database to another, and compare them row by row."""

from __future__ import annotations

import duckdb
from duckdb_sql import identifier


class CopyDiffers(Exception):
    """A copy has other rows than its source."""


def tables(connection: duckdb.DuckDBPyConnection, database: str) -> list[tuple[str, str]]:
    """Return schema and name of each table."""
    sql = "select schema_name, table_name from duckdb_tables() where database_name = $1 order by all"
    return connection.execute(sql, [database]).fetchall()


def views(connection: duckdb.DuckDBPyConnection, database: str) -> list[tuple[str, str, str]]:
    """Return schema, name and SQL of each view."""
    sql = (
        "select schema_name, view_name, sql from duckdb_views() where database_name = $1 and not internal order by all"
    )
    return connection.execute(sql, [database]).fetchall()


def copy_all(connection: duckdb.DuckDBPyConnection, source: str, target: str) -> None:
    """Copy all tables and views to an empty database. Raises duckdb.Error."""
    found = tables(connection, source)
    for schema in sorted({schema for schema, *_ in (*found, *views(connection, source))}):
        connection.execute(f"create schema if not exists {target}.{identifier(schema)}")
    for schema, name in found:
        connection.execute(f"create table {path(target, schema, name)} as from {path(source, schema, name)}")
    _copy_views(connection, source, target)


def _copy_views(connection: duckdb.DuckDBPyConnection, source: str, target: str) -> None:
    """Create the views; one that reads another one is created after it."""
    current = connection.execute("select current_database(), current_schema()").fetchall()[0]
    waiting = views(connection, source)
    while waiting:
        failed: list[tuple[str, str, str]] = []
        error: duckdb.Error | None = None
        for schema, name, sql in waiting:
            connection.execute(f"use {target}.{identifier(schema)}")
            try:
                connection.execute(sql)
            except duckdb.Error as problem:
                failed.append((schema, name, sql))
                error = problem
        if error and len(failed) == len(waiting):
            raise error
        waiting = failed
    connection.execute(f"use {identifier(current[0])}.{identifier(current[1])}")


def drop_all(connection: duckdb.DuckDBPyConnection, database: str) -> None:
    """Drop all tables and views of a database."""
    for schema, name, _ in views(connection, database):
        connection.execute(f"drop view {path(database, schema, name)}")
    for schema, name in tables(connection, database):
        connection.execute(f"drop table {path(database, schema, name)}")


def compare(connection: duckdb.DuckDBPyConnection, source: str, target: str) -> tuple[int, int]:
    """Compare each column and row of all tables; return the numbers of tables and rows. Raises CopyDiffers."""
    found = tables(connection, source)
    if found != tables(connection, target):
        raise CopyDiffers("the copy has other tables")
    total = 0
    for schema, name in found:
        total += compare_table(connection, path(source, schema, name), path(target, schema, name))
    names = [view[:2] for view in views(connection, source)]
    if names != [view[:2] for view in views(connection, target)]:
        raise CopyDiffers("the copy has other views")
    return len(found), total


def compare_table(connection: duckdb.DuckDBPyConnection, source: str, target: str, shown: str = "") -> int:
    """Compare each column and row of two tables; return the number of rows. Raises CopyDiffers.

    `shown` is another name of the target in errors.
    """
    columns = [connection.execute(f"describe {each}").fetchall() for each in (source, target)]
    if [row[:2] for row in columns[0]] != [row[:2] for row in columns[1]]:
        raise CopyDiffers(f"{shown or target} has other columns")
    rows, copied = (count(connection, each) for each in (source, target))
    if rows != copied:
        raise CopyDiffers(f"{shown or target} has {copied} rows, not {rows}")
    # Of the same number of rows, one difference would do; both show an error in the comparison itself.
    for first, second in ((source, target), (target, source)):
        if different := count(connection, f"(from {first} except all from {second})"):
            raise CopyDiffers(f"{shown or target} has {different} other rows")
    return rows


def count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(f"from {table} select count(*)").fetchall()[0][0])


def path(database: str, schema: str, name: str) -> str:
    """Return the SQL text of a table."""
    return f"{database}.{identifier(schema)}.{identifier(name)}"
