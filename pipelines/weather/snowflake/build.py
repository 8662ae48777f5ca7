"""Load the landed observations of a published file into Snowflake, and build the marts there with dbt.

FILE is a copy of the published file (`homelab pull weather --to FILE`). Its landed tables replace those in Snowflake.
The build is incremental: it computes the hours and days of rows that were landed, excluded, or removed since the last
complete build in Snowflake. If the file was built with other code or settings, or with --full-refresh, it builds
everything again.

The connection comes from the variables in profiles.yml. Exit status: 0 built and tested, 1 not, 2 the file cannot be
used.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import snowflake.connector
from dbt.cli.main import dbtRunner

HERE = Path(__file__).resolve().parent
_NEW = "_new"  # at the end of the name of a table that is being loaded
# The tables that only DuckDB builds, by their names in Snowflake.
_TABLES = {
    **{
        f"landing.landing_{name}": f"landing.landing_{name}"
        for name in ("weather", "exclusions", "city_settings", "runs")
    },
    **{f"landing.{name}": f"landing.{name}" for name in ("schedule", "schedule_source")},
    "weather.weather_daily_history": "main.weather_daily_history",
}
_TYPES = {
    "BIGINT": "bigint",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "DOUBLE": "double",
    "INTEGER": "integer",
    "TIMESTAMP": "timestamp_ntz",
    "TIMESTAMP WITH TIME ZONE": "timestamp_ntz",  # in UTC
    "UUID": "varchar",
    "VARCHAR": "varchar",
}
_STATE = """
create table if not exists landing.source_state (
    build bigint, built_through bigint, as_of timestamp_ntz, full_test boolean, fingerprint varchar
)
"""
_REMOVED = """
create table if not exists landing.removed_observations (
    city varchar, observation_timestamp timestamp_ntz, removed_in bigint
)
"""
# The rows of the previous file that are missing in this one.
_REMEMBER_REMOVED = f"""
insert into landing.removed_observations
select distinct city, observation_timestamp, %s
from landing.landing_weather as present
where not exists (
    select 1 from landing.landing_weather{_NEW} as new
    where new.ingested_at = present.ingested_at and new.id = present.id
)
"""
# These models read PostgreSQL: DuckDB has built and tested them.
_LANDED = (
    "landing_weather",
    "landing_exclusions",
    "landing_city_settings",
    "landing_runs",
    "source:raw",
    "source:build",
)


class Unusable(Exception):
    """A file that cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Source:
    """The last complete build of a published file."""

    build: int
    as_of: str
    fingerprint: str

    @classmethod
    def read(cls, file: duckdb.DuckDBPyConnection) -> Source:
        """Read the state of the build. Raises Unusable for local days, which Snowflake's models do not support."""
        build, as_of = file.execute(
            "select built_through, as_of::timestamp::varchar from landing.source_state"
        ).fetchall()[0]
        (fingerprint,) = file.execute("select fingerprint from landing.test_state").fetchall()[0]
        ((days,),) = file.execute("select days from staging.build_info").fetchall()
        if days != "utc":
            raise Unusable(f"the weather has `days: {days}`, and the models for Snowflake have `days: utc` only")
        return cls(build, as_of, fingerprint)


@contextmanager
def _opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a published file in UTC."""
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")
        yield connection


def _connect() -> Any:
    """Connect with the variables of profiles.yml."""
    names = {"role": "HOMELAB", "warehouse": "HOMELAB", "database": "HOMELAB"}
    return snowflake.connector.connect(
        account=os.environ["SNOWFLAKE_ACCOUNT"],
        user=os.environ["SNOWFLAKE_USER"],
        private_key_file=os.environ["SNOWFLAKE_PRIVATE_KEY_FILE"],
        private_key_file_pwd=os.environ.get("SNOWFLAKE_PRIVATE_KEY_PASSPHRASE") or None,
        schema="LANDING",
        **{name: os.environ.get(f"SNOWFLAKE_{name.upper()}", default) for name, default in names.items()},
    )


def load(file: duckdb.DuckDBPyConnection, source: Source, cursor: Any, again: bool) -> bool:
    """Replace the tables by those of the file; return True if everything has to be built again. `again` forces it."""
    for schema in ("landing", "weather"):
        cursor.execute(f"create schema if not exists {schema}")
    cursor.execute(_STATE)
    state = cursor.execute("select built_through, fingerprint from landing.source_state").fetchone()
    through, fingerprint = state or (0, "")
    again = again or not through or fingerprint != source.fingerprint or source.build < through
    with tempfile.TemporaryDirectory() as folder:
        for name, origin in _TABLES.items():
            _copy(file, cursor, origin, name, Path(folder) / "rows.parquet")
    cursor.execute(_REMOVED)
    # These rows stay until a build is complete: a run that fails, or is killed, forgets none of them.
    if not again:
        cursor.execute(_REMEMBER_REMOVED, (source.build,))
    for name in _TABLES:
        cursor.execute(f"create or replace table {name} as select * from {name}{_NEW}")
        cursor.execute(f"drop table {name}{_NEW}")
    cursor.execute("delete from landing.source_state")
    values = (source.build, 0 if again else through, source.as_of, source.fingerprint)
    cursor.execute("insert into landing.source_state values (%s, %s, %s, true, %s)", values)
    return again


def _copy(file: duckdb.DuckDBPyConnection, cursor: Any, origin: str, name: str, path: Path) -> None:
    """Load a table of the file under a new name, through a Parquet file on a stage of the session. Raises Unusable."""
    described = file.execute(f"describe {origin}").fetchall()
    columns = ", ".join(f"{column} {_type(kind)}" for column, kind, *_ in described)
    values = ", ".join(_value(column, kind) for column, kind, *_ in described)
    file.execute(f"copy (select {values} from {origin}) to '{path}' (format parquet)")
    cursor.execute(f"create or replace table {name}{_NEW} ({columns})")
    cursor.execute("create or replace temporary stage landing.homelab_files")
    cursor.execute(f"put 'file://{path}' @landing.homelab_files auto_compress = false")
    cursor.execute(
        f"copy into {name}{_NEW} from @landing.homelab_files/{path.name} "
        "file_format = (type = parquet use_logical_type = true) match_by_column_name = case_insensitive"
    )
    loaded = cursor.execute(f"select count(*) from {name}{_NEW}").fetchone()[0]
    expected = file.execute(f"select count(*) from {origin}").fetchall()[0][0]
    if loaded != expected:
        raise Unusable(f"Snowflake has {loaded} rows of {name}, and the file has {expected}")


def _type(kind: str) -> str:
    """Return the type for a column of DuckDB. Raises Unusable for an unknown one."""
    if kind not in _TYPES:
        raise Unusable(f"no type of Snowflake is known for {kind}")
    return _TYPES[kind]


def _value(name: str, kind: str) -> str:
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"make_timestamp(epoch_us({name})) as {name}"
    return f"{name}::varchar as {name}" if kind == "UUID" else name


def build(full_refresh: bool) -> bool:
    """Build and test the models on Snowflake with dbt; return True if all of them pass."""
    folders = ["--profiles-dir", str(HERE), "--project-dir", str(HERE.parent / "dbt")]
    # DuckDB has run the unit tests, whose times have a zone.
    kinds = [f"--exclude-resource-type={kind}" for kind in ("unit_test", "snapshot", "exposure")]
    words = ["build", *folders, *kinds, *(["--full-refresh"] if full_refresh else []), "--exclude", *_LANDED]
    return dbtRunner().invoke(words).success


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="copy of the published file")
    parser.add_argument("--full-refresh", action="store_true", help="build everything again")
    options = parser.parse_args()
    try:
        with _opened(options.file) as file, _connect() as connection:
            source = Source.read(file)
            again = load(file, source, connection.cursor(), options.full_refresh)
    except KeyError as error:
        print(f"Cannot connect to Snowflake: {error.args[0]} is not set", file=sys.stderr)
        return 2
    except (Unusable, duckdb.Error) as error:
        print(f"Cannot load {options.file}: {error}", file=sys.stderr)
        return 2
    except snowflake.connector.Error as error:
        print(f"Cannot load {options.file} into Snowflake: {error}", file=sys.stderr)
        return 1
    if not build(again):
        return 1
    with _connect() as connection:
        cursor = connection.cursor()
        cursor.execute("update landing.source_state set built_through = build")
        cursor.execute("delete from landing.removed_observations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
