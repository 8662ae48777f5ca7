"""The lake of a pipeline: DuckLake tables, with the catalog in PostgreSQL and the rows as Parquet files in S3.

The catalog is a schema of the database `lake`, which the role of dbt owns. Each commit is a snapshot of all tables. The
commit of a build that passed its tests has the message PUBLISHED: readers at a time see the tables of such a commit,
never those of half a build.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import duckdb
import object_storage
import warehouse_copy
from dbt_login import dbt_login
from duckdb_sql import literal

CATALOG = "warehouse"  # as DuckDB names the catalog of warehouse.duckdb: dbt compiles the same SQL for both
PUBLISHED = "published"
_EXTENSIONS = ("postgres_scanner", "ducklake")
_DELETED_AFTER = timedelta(hours=1)  # a file that no snapshot needs; longer than any query may last
_ORPHANED_AFTER = timedelta(days=2)  # a file of a build that was killed; longer than any build may last
_OTHER_FOLDER = re.compile(r'DATA_PATH parameter .* does not match existing data path in the catalog "(.*?)"')
# Merging writes both files again: each build would write a table's whole file, as long as it has less than 512 MB.
_SMALL = 8 << 20  # bytes of a file that is merged with others
# DuckLake keeps rows of small changes in the catalog, where nothing ever removes them: expiring skips them, and writing
# them to files breaks reading at a time (https://github.com/duckdb/ducklake/issues/1406). Also in profiles.yml.
_NO_INLINED_ROWS = "data_inlining_row_limit 0"
# Parquet has other numbers and times than DuckDB: it rounds the values of these types (DuckDB 1.5.5, measured).
_ROUNDED = r"\b(HUGEINT|UHUGEINT|INTERVAL|TIME WITH TIME ZONE)\b"
_COLUMNS = """
select format('{}.{}.{} ({})', schema_name, table_name, column_name, data_type) from duckdb_columns()
where database_name = $1 and regexp_matches(data_type, $2) order by all
"""
_SNAPSHOTS = f"from ducklake_snapshots('{CATALOG}')"


class NoSnapshot(Exception):
    """The lake has no build of this time."""


class StorageUnreachable(Exception):
    """The object storage of the lake does not answer."""


class StorageChanged(duckdb.Error):
    """The lake's objects are in another folder than that of the inventory's object storage."""


@dataclass(frozen=True)
class Lake:
    """The connection of a pipeline's lake; `schema` has its catalog, `url` is the folder of its objects."""

    schema: str
    url: str
    retention: timedelta
    variables: Mapping[str, str]

    @classmethod
    def from_environment(cls) -> Lake | None:
        """Return the lake that pipeline.env declares; None without one.

        DuckDB reaches the catalog with libpq's variables, as the role of dbt.
        """
        if "LAKE_SCHEMA" not in os.environ:
            return None
        os.environ.update(dbt_login())
        retention = timedelta(seconds=float(os.environ["LAKE_RETENTION_SECONDS"]))
        return cls(os.environ["LAKE_SCHEMA"], os.environ["S3_URL"] + "/lake/", retention, dict(os.environ))

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Open the newest version in UTC. Raises duckdb.Error.

        Opening a lake takes half a second, so these connections of a process share one.
        """
        connection = self._newest.cursor()
        connection.execute(f"use {CATALOG}.main")
        return connection

    def connect_read_only(self, version: int | None = None) -> duckdb.DuckDBPyConnection:
        """Open a version, or the newest one, in UTC and alone. Raises duckdb.Error."""
        connection = self._open(version, read_only=True)
        connection.execute(f"use {CATALOG}.main")
        return connection

    @cached_property
    def _newest(self) -> duckdb.DuckDBPyConnection:
        return self._open(None, read_only=False)

    def _open(self, version: int | None, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        connection = object_storage.connect(self.variables)
        for name in _EXTENSIONS:
            connection.load_extension(name)
        self.attach(connection, CATALOG, version, read_only=read_only)
        return connection

    def attach(
        self, connection: duckdb.DuckDBPyConnection, name: str, version: int | None = None, *, read_only: bool
    ) -> None:
        """Attach the catalog under a name. Raises StorageChanged, duckdb.Error."""
        options = [f"data_path {literal(self.url)}", f"metadata_schema {literal(self.schema)}", _NO_INLINED_ROWS]
        options += [f"snapshot_version {version}"] * (version is not None) + ["read_only"] * read_only
        try:
            connection.execute(f"attach 'ducklake:postgres:dbname=lake' as {name} ({', '.join(options)})")
        except duckdb.Error as error:
            if found := _OTHER_FOLDER.search(str(error)):
                raise StorageChanged(
                    f"Cannot open the lake: its objects are in {found[1]}, but the object storage of the inventory is "
                    f"{self.url}. Write the earlier storage into the inventory, and deploy: "
                    "`homelab pipeline move --to file` moves the history before the storage changes."
                ) from None
            raise

    def exists(self) -> bool:
        """Return True if the lake has a table."""
        with self.connect() as connection:
            return bool(warehouse_copy.tables(connection, CATALOG))

    def require_storage(self) -> None:
        """List a folder of the object storage. Raises StorageUnreachable if it does not answer."""
        with self.connect() as connection:
            try:
                connection.execute(f"from glob({literal(self.url + 'none/*')})").fetchall()
            except duckdb.Error as error:
                endpoint = self.variables["S3_ENDPOINT"]
                cause = " ".join(str(error).split()).partition(" LINE 1: ")[0][:300]
                raise StorageUnreachable(
                    f"Cannot reach the object storage {endpoint} of the lake: {cause}. "
                    "The published file is unchanged, and the next build continues."
                ) from None

    def rounded_columns(self) -> list[str]:
        """Return the columns whose values the lake rounds, each with its type."""
        with self.connect() as connection:
            return [text for (text,) in connection.execute(_COLUMNS, [CATALOG, _ROUNDED]).fetchall()]

    def mark_published(self) -> None:
        """Mark the present tables as those of a build that passed its tests."""
        with self.connect() as connection:
            connection.execute("create schema if not exists landing")
            connection.execute("create table if not exists landing.builds (published_at timestamptz)")
            connection.begin()
            connection.execute(f"call {CATALOG}.set_commit_message('homelab', '{PUBLISHED}')")
            connection.execute("insert into landing.builds values (now())")
            connection.commit()

    def maintain(self) -> None:
        """Expire snapshots, merge small files, and delete files that no snapshot needs. Raises duckdb.Error.

        The newest published snapshot stays. Those of the steps of a build have no readers, so they expire immediately.
        """
        with self.connect() as connection:
            published = published_versions(connection)
            oldest = datetime.now().astimezone() - self.retention
            newest = max((version for version, _ in published), default=-1)
            kept = {version for version, time in published if time >= oldest} | {newest}
            found = connection.execute(f"{_SNAPSHOTS} select snapshot_id").fetchall()
            expired = [version for (version,) in found if version < newest and version not in kept]
            if expired:
                connection.execute(f"call ducklake_expire_snapshots('{CATALOG}', versions => {expired})")
            connection.execute(f"call ducklake_merge_adjacent_files('{CATALOG}', max_file_size => {_SMALL})")
            connection.execute(f"call ducklake_rewrite_data_files('{CATALOG}', delete_threshold => 0.5)")
            for function, age in (
                ("ducklake_cleanup_old_files", _DELETED_AFTER),
                ("ducklake_delete_orphaned_files", _ORPHANED_AFTER),
            ):
                seconds = int(age.total_seconds())
                connection.execute(f"call {function}('{CATALOG}', older_than => now() - to_seconds({seconds}))")

    def restore(self) -> None:
        """Give all tables the rows of the newest published snapshot; drop those that it does not have."""
        with self.connect() as connection:
            versions = [version for version, _ in published_versions(connection)]
            if versions:
                self.attach(connection, "before", max(versions), read_only=True)
            connection.begin()
            warehouse_copy.drop_all(connection, CATALOG)
            if versions:
                warehouse_copy.copy_all(connection, "before", CATALOG)
            connection.commit()
            if versions:
                connection.execute("detach before")

    def version_at(self, time: datetime) -> int:
        """Return the version of the last published build at a time. Raises NoSnapshot."""
        with self.connect_read_only() as connection:
            published = published_versions(connection)
        if found := [version for version, made in published if made <= time]:
            return max(found)
        oldest = min((made for _, made in published), default=None)
        known = f"the oldest is of {oldest:%Y-%m-%d %H:%M:%S} UTC" if oldest else "there is no build yet"
        raise NoSnapshot(f"the lake has no build of this time: {known}")


def published_versions(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, datetime]]:
    """Return the versions of the published builds, each with its time."""
    sql = f"{_SNAPSHOTS} select snapshot_id, snapshot_time::varchar where commit_message = '{PUBLISHED}'"
    return [(version, datetime.fromisoformat(time)) for version, time in connection.execute(sql).fetchall()]
