"""The weather in an imitation of Snowflake (fakesnow), compared row by row with the published file of DuckDB."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from tests.integration.test_marts import all_samples, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-fakesnow" / "bin" / "python"
BUILD = ROOT / "pipelines" / "weather" / "snowflake" / "build.py"
AS_OF = ("--as-of", "2013-06-01T00:00:00+00:00")

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason=".venv-fakesnow is missing: ./bootstrap --test"),
    pytest.mark.timeout(600),
]


@dataclass
class Snowflake:
    """The imitation, with its database in a file."""

    folder: Path

    def run(self, *words: str, expect: int = 0, **variables: str) -> str:
        """Run a program of Python; return its output."""
        environment = {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
            "SNOWFLAKE_ACCOUNT": "account",
            "SNOWFLAKE_USER": "user",
            "SNOWFLAKE_PRIVATE_KEY_FILE": str(self.folder / "key.pem"),
            "DBT_TARGET_PATH": str(self.folder / "target"),
            "DBT_LOG_PATH": str(self.folder / "logs"),
            **variables,
        }
        done = subprocess.run(
            [str(PYTHON), *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 else done.stderr

    def build(self, source: Stack | Path, expect: int = 0, **variables: str) -> str:
        """Load a file, or the published one, and build."""
        file = source if isinstance(source, Path) else source.data / "published.duckdb"
        words = ("-m", "fakesnow", "-d", str(self.folder), str(BUILD), str(file))
        return self.run(*words, expect=expect, **variables)

    def compare(self, stack: Stack) -> dict[str, int]:
        """Compare all rows; return the number of rows of each table."""
        files = (str(stack.data / "published.duckdb"), str(self.folder / "HOMELAB.db"))
        program = Path(__file__).with_name("compare_snowflake.py")
        counts: dict[str, int] = json.loads(self.run(str(program), *files))
        return counts

    def sql(self, statement: str) -> Sequence[Sequence[object]]:
        """Run a statement of DuckDB in the file of the imitation; return its rows."""
        program = (
            "import duckdb, json, sys; print(json.dumps(duckdb.connect(sys.argv[1]).execute(sys.argv[2]).fetchall()))"
        )
        rows: Sequence[Sequence[object]] = json.loads(
            self.run("-c", program, str(self.folder / "HOMELAB.db"), statement)
        )
        return rows


@pytest.fixture
def snowflake(tmp_path: Path) -> Snowflake:
    folder = tmp_path / "snowflake"
    folder.mkdir()
    key = generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    return Snowflake(folder)


# Runs a program without one of its variables.
MISSING = """
import os, runpy, sys
del os.environ["SNOWFLAKE_USER"], sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
FIRST_HOUR = "(select min(observation_hour) from weather.weather_hourly)"


def test_marts_have_the_rows_of_the_published_file(stack: Stack, snowflake: Snowflake) -> None:
    samples = all_samples()[::6]  # of all cities
    insert(stack, samples[:2500])
    stack.build(*AS_OF)
    snowflake.build(stack)
    first = snowflake.compare(stack)
    assert first["weather_hourly"] > 2000
    assert first["weather_daily_history"] > 100
    # New and repeated observations, and an exclusion. An hour that has not changed is not computed again.
    insert(stack, samples[2400:3600])
    period = ("--from", "2013-02-03", "--to", "2013-02-05", "--reason", "test", "--by", "test")
    stack.script("exclusions.py", "add", "--city", "Newark,US", *period)
    assert not stack.build(*AS_OF)["full_refresh"]
    change = "humidity_mean_pct = humidity_mean_pct %s 1024"
    mark = f"weather.weather_hourly set {change} where observation_hour = {FIRST_HOUR}"
    snowflake.sql(f"update {mark % '+'}")
    snowflake.build(stack)
    assert snowflake.sql("select count(*) from weather.weather_hourly where humidity_mean_pct > 1000") == [[1]]
    snowflake.sql(f"update {mark % '-'}")
    more = snowflake.compare(stack)
    assert more["weather_hourly"] > first["weather_hourly"]
    # A raw row that is removed, and a run that fails after the load.
    removed = "delete from raw.weather_observations where id = (select min(id) + 20 from raw.weather_observations)"
    with stack.server.connect(stack.database) as connection:
        connection.execute(removed.encode())
    assert not stack.build(*AS_OF)["full_refresh"]
    snowflake.build(stack, expect=1, WEATHER_DAYS="never")
    snowflake.build(stack)
    assert snowflake.compare(stack)["weather_hourly"] == more["weather_hourly"] - 1


@pytest.mark.parametrize(
    ("days", "reason"), [("local", "`days: local`"), ("utc", "no type of Snowflake is known for DECIMAL(2,1)")]
)
def test_a_file_that_cannot_be_loaded_is_refused(snowflake: Snowflake, tmp_path: Path, days: str, reason: str) -> None:
    file = tmp_path / "published.duckdb"
    snowflake.run(
        "-c",
        """if True:
        import duckdb, sys
        duckdb.connect(sys.argv[1]).execute(
            "create schema landing; create schema staging;"
            "create table landing.source_state as select 1 as built_through, now() as as_of;"
            "create table landing.test_state as select '' as fingerprint;"
            "create table landing.landing_weather as select 1.5 as depth_of_a_copy;"
            f"create table staging.build_info as select '{sys.argv[2]}' as days"
        )""",
        str(file),
        days,
    )

    error = snowflake.build(file, expect=2)

    assert f"Cannot load {file}: " in error
    assert reason in error
    assert "Traceback" not in error


def test_a_missing_variable_is_named(snowflake: Snowflake, tmp_path: Path) -> None:
    file = tmp_path / "empty.duckdb"
    snowflake.run("-c", "import duckdb, sys; duckdb.connect(sys.argv[1])", str(file))

    error = snowflake.run("-c", MISSING, str(BUILD), str(file), expect=2)

    assert error == "Cannot connect to Snowflake: SNOWFLAKE_USER is not set\n"
