"""The tables of a pipeline with `target: clickhouse`: DuckDB lands the raw rows, and ClickHouse builds the models.

The file warehouse.duckdb has all tables of the last complete build, and its new raw rows. A build

1. lands the raw rows in the file (the models `landing_*`, with DuckDB),
2. copies the new ones to ClickHouse's database `landing`,
3. builds and tests all other models there,
4. copies their changed rows to the file.

So nothing is only in ClickHouse: it can lose its tables, and the next build copies them again. Both keep the mark of
the last build that they completed together; with another mark, or none, the tables of the file replace those there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import clickhouse
import duckdb
import warehouse_copy
from built_tables import Built
from clickhouse import ClickHouse
from contract import CLICKHOUSE_DATABASES
from dbt_runner import Layout, run_dbt
from file_warehouse import FileWarehouse

CATALOG = "warehouse"  # DuckDB's name of the file
LANDED, BUILT, PUBLISHED = (CLICKHOUSE_DATABASES[name] for name in ("landed", "built", "published"))
_LANDED = "landing_*"
_LANDED_TESTS = (f"{_LANDED}+1,resource_type:test", "source:*+1,resource_type:test")
_VIEWS = "config.materialized:view"
_VIEW = "staging.stg_weather"
_WEATHER = "landing.landing_weather"  # the only landed table that grows
_NOT_SENT = ("landing_weather", "raw_counts", "clickhouse_build", "changed_observations", "compaction")
_MARK = "landing.clickhouse_build"
_MOST_GROUPS = 2000  # in one statement, which may have 256 KiB
# The rows of each build and month: an increment changes only its own.
_MONTH = "date_trunc('month', make_timestamp(epoch_us(ingested_at)))::date::varchar"
_GROUPS = f"""select landed_in, {_MONTH}, count(*), sum(id::hugeint + epoch_us(ingested_at))::varchar
    from {_WEATHER} group by 1, 2"""
_MONTH_THERE = "toString(toStartOfMonth(ingested_at))"
_GROUPS_THERE = f"""select landed_in, {_MONTH_THERE}, count(),
        toString(sum(toInt128(id) + toUnixTimestamp64Micro(ingested_at)))
    from {_WEATHER} group by 1, 2
    settings output_format_json_quote_64bit_integers = 0 format JSONCompactEachRow"""


@dataclass(frozen=True, slots=True)
class ClickHouseWarehouse:
    """The file, and the server that builds its models."""

    file: FileWarehouse
    server: ClickHouse

    def exists(self) -> bool:
        """Return True if the file exists."""
        return self.file.exists()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open the file in UTC."""
        return self.file.connect()

    def require(self) -> None:
        """Check that ClickHouse answers, and accepts the login. Raises ClickHouseError, and ClickHouseUnreachable."""
        self.server.run("select 1")

    def restore(self, published: Path) -> None:
        """Replace the file by a copy of the published one; the next build copies its tables to ClickHouse."""
        self.file.restore(published)

    def run_dbt(self, layout: Layout, lock: int, options: Sequence[str]) -> int:
        """Land the rows, build and test the other models in ClickHouse, and copy them; return dbt's exit status."""
        full_refresh, (options, excluded) = "--full-refresh" in options, _split(options)
        status = run_dbt(layout, lock, [*options, "--select", _LANDED, *_LANDED_TESTS, *_exclude(excluded)])
        if status:
            return status
        results = [layout.run_results.read_text()]
        with self.connect() as connection:
            self._align(connection, full_refresh)
            if not self.server.has(_VIEW):
                excluded = [each for each in excluded if each != _VIEWS]
            self._send_landed(connection)
        there = replace(layout, target="target-clickhouse")
        there.run_results.unlink(missing_ok=True)
        words = ["--target", "clickhouse", *_exclude([_LANDED, *_LANDED_TESTS, *excluded])]
        # dbt's client takes the CA from the variable of OpenSSL only. dbt imports all modules named dbt_*, but those of
        # homelab need the packages of another venv.
        variables = {"SSL_CERT_FILE": self.server.ca_file, "PYTHONPATH": ""}
        status = run_dbt(there, lock, [*options, *words], os.environ["CLICKHOUSE_DBT"], variables)
        if status:
            _combine(layout, results, there)
            return status
        with self.connect() as connection:
            for built in Built.read(there):
                self._receive(connection, built, full_refresh)
        if full_refresh:
            status = run_dbt(layout, lock, [*options, "--select", _VIEWS, "--exclude-resource-type=test"])
            results.append(layout.run_results.read_text())
        _combine(layout, results, there)
        return status

    def publish(self, published: Path) -> None:
        """Give readers of ClickHouse the tested marts, each at once, and publish a copy of the file."""
        marts = self._tables("main")
        for name, engine in marts.items():
            rows = f"clone as main.{name}"
            if engine == "View":
                rows = f"engine = MergeTree order by tuple() as select * from main.{name}"
            self.server.run(f"create or replace table {PUBLISHED}.{name} {rows}")
        for name in self._tables(PUBLISHED).keys() - marts:
            self.server.run(f"drop table {PUBLISHED}.{name}")
        with self.connect() as connection:
            self.mark(connection)
        self.file.publish(published)

    def mark(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Record that the file and ClickHouse have the tables of the last complete build."""
        query = f"select '{uuid.uuid4().hex}' as mark, built_through from landing.source_state"
        connection.execute(f"create or replace table {_MARK} as {query}")
        self.copy(connection, _MARK)

    def copy(self, connection: duckdb.DuckDBPyConnection, table: str, order: str = "tuple()") -> None:
        """Replace a table in ClickHouse by that of the file."""
        clickhouse.create(connection, self.server, f"from {table}", table, order)
        clickhouse.send(connection, self.server, f"from {table}", table, self.file.path.parent)

    def copy_built(self, connection: duckdb.DuckDBPyConnection, *, only_histories: bool = False) -> None:
        """Replace the tables that ClickHouse builds by those of the file; the next build creates the views."""
        for database in BUILT:
            self.server.run(f"drop database if exists {database}")
        self._create_databases()
        for table in self._built(connection):
            if not only_histories or _last_change(connection, table):
                self.copy(connection, table)

    def _built(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Return the tables in the file that ClickHouse builds."""
        return [f"{schema}.{name}" for schema, name in warehouse_copy.tables(connection, CATALOG) if schema in BUILT]

    def _landed(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """Return the other tables in the file that ClickHouse needs, without the observations."""
        found = (name for schema, name in warehouse_copy.tables(connection, CATALOG) if schema == "landing")
        return [f"landing.{name}" for name in found if name not in _NOT_SENT]

    def copy_and_compare(self, *, copy: bool) -> tuple[int, int]:
        """Compare each row of the built and landed tables; return the numbers of tables and rows.

        With `copy`, those of the file replace those of ClickHouse before. Raises CopyDiffers.
        """
        with self.connect() as connection:
            if copy:
                self.copy_built(connection)
            self._send_landed(connection)
            tables = [*self._built(connection), *self._landed(connection), _WEATHER]
            rows = sum(self._compare(connection, table) for table in tables)
            if copy:
                self.mark(connection)
        return len(tables), rows

    def _compare(self, connection: duckdb.DuckDBPyConnection, table: str) -> int:
        """Return the number of rows of a table that is the same in both. Raises CopyDiffers."""
        kinds = {row[0]: row[1] for row in connection.execute(f"describe {table}").fetchall()}
        query = f"select * from {table}"
        with clickhouse.fetched(connection, self.server, query, kinds, self.file.path.parent) as rows:
            connection.execute(f"create or replace temp table fetched as {rows}")
            return warehouse_copy.compare_table(connection, f"{CATALOG}.{table}", "temp.main.fetched", table)

    def _create_databases(self) -> None:
        for database in (LANDED, *BUILT, PUBLISHED):
            self.server.run(f"create database if not exists {database}")

    def _align(self, connection: duckdb.DuckDBPyConnection, full_refresh: bool) -> None:
        """Copy the built tables of the file, if those in ClickHouse are not of the same build.

        A full refresh needs only the histories of snapshots, which it continues.
        """
        self._create_databases()
        query = f"select mark || ' ' || built_through from {_MARK} join landing.source_state using (built_through)"
        try:
            mark = connection.execute(query).fetchone()
        except duckdb.CatalogException:
            mark = None
        if mark and self.server.has(_MARK):
            there = self.server.value(f"select concat(mark, ' ', toString(built_through)) from {_MARK}")
            if there == mark[0]:
                return
        self.copy_built(connection, only_histories=full_refresh)

    def _send_landed(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Give ClickHouse the landed rows: those of the groups that differ, and all rows of the small tables."""
        for table in self._landed(connection):
            self.copy(connection, table)
        here = {tuple(row) for row in connection.execute(_GROUPS).fetchall()}
        there = set[tuple[Any, ...]]()
        if self._has_landed_columns(connection):
            there = {tuple(json.loads(line)) for line in self.server.run(_GROUPS_THERE).splitlines()}
        differing = {(row[0], row[1]) for row in here ^ there}
        if not here & there or len(differing) > _MOST_GROUPS:
            self.copy(connection, _WEATHER, "(city, observation_timestamp)")
        elif differing:
            groups = ", ".join(f"({build}, '{month}')" for build, month in sorted(differing))
            self.server.run(f"delete from {_WEATHER} where (landed_in, {_MONTH_THERE}) in ({groups})")
            query = f"from {_WEATHER} where (landed_in, {_MONTH}) in ({groups})"
            clickhouse.send(connection, self.server, query, _WEATHER, self.file.path.parent)

    def _has_landed_columns(self, connection: duckdb.DuckDBPyConnection) -> bool:
        if not self.server.has(_WEATHER):
            return False
        columns = [row[0] for row in connection.execute(f"describe {_WEATHER}").fetchall()]
        return [line.split("\t")[0] for line in self.server.value(f"describe table {_WEATHER}").splitlines()] == columns

    def _receive(self, connection: duckdb.DuckDBPyConnection, built: Built, full_refresh: bool) -> None:
        """Copy a built table to the file: all rows, or in an increment those of the changed periods."""
        folder, query = self.file.path.parent, f"select * from {built.table}"
        order = f" order by {built.order}" if built.order else ""  # the file's blocks have few periods each
        keys = "" if full_refresh else built.changed_keys(_last_change(connection, built.table))
        if not keys:
            with clickhouse.fetched(connection, self.server, query + order, built.types, folder) as rows:
                connection.execute(f"create schema if not exists {built.table.partition('.')[0]}")
                connection.execute(f"create or replace table {built.table} as {rows}")
            return
        key = ", ".join(built.key)
        query += f" where ({key}) in ({keys})"
        with (
            clickhouse.fetched(connection, self.server, keys, {}, folder) as changed,
            clickhouse.fetched(connection, self.server, query + order, built.types, folder) as rows,
        ):
            connection.begin()
            connection.execute(f"delete from {built.table} where ({key}) in ({changed})")
            connection.execute(f"insert into {built.table} by name {rows}")
            connection.commit()

    def _tables(self, database: str) -> Mapping[str, str]:
        """Return the names of the tables and views of a database, each with its engine."""
        lines = self.server.value(f"select name, engine from system.tables where database = '{database}'").splitlines()
        return dict(line.split("\t") for line in lines)


def _last_change(connection: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return the time of the last version in the history of a snapshot; "" for other tables, and for an empty one."""
    try:
        row = connection.execute(
            f"select max(greatest(dbt_valid_from, coalesce(dbt_valid_to, dbt_valid_from)))::varchar from {table}"
        ).fetchone()
    except (duckdb.BinderException, duckdb.CatalogException):
        return ""
    return row[0] or "" if row else ""


def _split(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options before `--exclude`, and the nodes that it excludes."""
    words = list(options)
    if "--exclude" not in words:
        return words, []
    position = words.index("--exclude")
    return words[:position], words[position + 1 :]


def _exclude(nodes: Sequence[str]) -> list[str]:
    return ["--exclude", *nodes] if nodes else []


def _combine(layout: Layout, earlier: Sequence[str], there: Layout) -> None:
    """Write the results of all runs of a build to the one file that the report reads."""
    texts = [*earlier, there.run_results.read_text()] if there.run_results.exists() else list(earlier)
    documents = [json.loads(text) for text in texts]
    results = [result for document in documents for result in document["results"]]
    layout.run_results.write_text(json.dumps({**documents[-1], "results": results}))
