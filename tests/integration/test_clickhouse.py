"""The weather with `target: clickhouse`, on a real PostgreSQL 16 and ClickHouse's engine, compared with a file."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration import clickhouse_server
from tests.integration.conftest import write_profiles
from tests.integration.test_marts import all_samples, check_upgrade, insert
from tests.integration.test_numbers import as_ingestion, insert_extremes
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SHARED_SCRIPTS

from contract import EXIT  # isort: skip

pytestmark = [
    pytest.mark.skipif(not clickhouse_server.is_installed(), reason="chdb is not installed: ./bootstrap --test"),
    pytest.mark.timeout(900),
]
AS_OF = ("--as-of", "2013-06-01T00:00:00+00:00")


@pytest.fixture
def server() -> Iterator[clickhouse_server.Server]:
    with clickhouse_server.server() as running:
        yield running


@pytest.fixture
def clickhouse(stack: Stack, server: clickhouse_server.Server, extensions: Path, tmp_path: Path) -> Stack:
    """The same raw rows as `stack`, another folder of data, and ClickHouse."""
    data = tmp_path / "clickhouse"
    data.mkdir()
    write_profiles(data, extensions, "1GB", clickhouse=True)
    stack.timeout = 300  # a build has up to three runs of dbt, also on a busy machine
    return replace(stack, data=data, variables=server.variables)


def compare(stack: Stack, clickhouse: Stack, *words: str) -> dict[str, int]:
    """Compare all rows of both published files, or of `marts`; return the number of rows of each table."""
    program = Path(__file__).with_name("compare_published.py").read_text()
    output = stack.script_of(
        program, str(clickhouse.data / "published.duckdb"), *words, path=str(stack.data / "published.duckdb")
    )
    counts: dict[str, int] = json.loads(output)
    return counts


def exclude_a_day(stack: Stack) -> None:
    period = ("--from", "2013-01-03", "--to", "2013-01-04", "--reason", "test", "--by", "test")
    stack.script("exclusions.py", "add", "--city", "Newark,US", *period)


def test_builds_have_the_same_rows_as_those_of_the_file_also_after_moves(
    stack: Stack, clickhouse: Stack, server: clickhouse_server.Server
) -> None:
    samples = all_samples()
    insert(stack, samples[:3000])
    with as_ingestion(stack) as connection:
        extremes = insert_extremes(connection, "2013-01-05")
    reports = [each.build(*AS_OF) for each in (stack, clickhouse)]
    assert all(report["full_refresh"] for report in reports)
    # No test is left out: those of the landed rows ran in DuckDB, all others in ClickHouse.
    assert reports[0]["tests_passed"] == reports[1]["tests_passed"] > 70
    found = compare(stack, clickhouse)
    assert found["landing_weather"] == 3000 + extremes
    # New and repeated observations, and an exclusion: an increment.
    insert(stack, samples[2900:5000])
    exclude_a_day(stack)
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, clickhouse))
    more = compare(stack, clickhouse)
    assert more["landing_weather"] == 5100 + extremes
    assert more["weather_hourly"] > found["weather_hourly"]
    check_readers(server, more)
    logged = "".join(path.read_text() for path in clickhouse.data.glob("logs/dbt.log*"))
    assert server.password not in logged
    check_moves(stack, clickhouse, server)
    # A server that has lost its tables gets them from the file: nothing is rebuilt.
    for database in ("landing", "main"):
        server.query(f"drop database {database}")
    insert(stack, samples[5000:5500])
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, clickhouse))
    assert compare(stack, clickhouse)["landing_weather"] == 5600 + extremes
    # Without access to ClickHouse, builds continue in the file, which has all rows.
    in_file = replace(clickhouse, variables={})
    insert(stack, samples[5500:5600])
    assert not in_file.build(*AS_OF)["full_refresh"]
    assert in_file.query("select count(*) as rows from landing.landing_weather") == [{"rows": 5700 + extremes}]


def check_readers(server: clickhouse_server.Server, rows: dict[str, int]) -> None:
    """Check that the readers of ClickHouse have all rows of the marts, views as tables."""
    count = "select count() from weather.{}"
    for name in ("weather_hourly", "weather_daily", "weather_records", "weather_completeness"):
        assert int(server.query(count.format(name))) == rows[name], name


def check_moves(stack: Stack, clickhouse: Stack, server: clickhouse_server.Server) -> None:
    """Move the history to the file and back; with a row that differs, it stays."""
    move = ("move_target.py", "--data", str(clickhouse.data), "--to")
    assert "no clickhouse" in stack.script(*move, "clickhouse", expect=EXIT.bad_input).stderr
    for target in ("file", "clickhouse"):
        outcome = json.loads(clickhouse.script(*move, target).stdout)
        assert outcome["moved"]
        assert outcome["rows"] > 5100
        assert not json.loads(clickhouse.script(*move, target).stdout)["moved"]
    change = "update rain_mm = 99 where city = 'Newark,US' settings mutations_sync = 2"
    server.query(f"alter table main.weather_daily {change}")
    assert "main.weather_daily has " in clickhouse.script(*move, "file", expect=EXIT.failed).stderr
    assert (clickhouse.data / "history_in").read_text().strip() == "clickhouse"


def test_hourly_build_after_an_upgrade_adds_columns_to_the_whole_history(
    clickhouse: Stack, server: clickhouse_server.Server, tmp_path: Path
) -> None:
    check_upgrade(clickhouse, tmp_path)
    counts = "select countIf(temperature_hours_observed > 0), count() from weather.weather_daily"
    assert len(set(server.query(counts).split())) == 1


def printed(python: Path, folder: Path, program: str) -> list[str]:
    """Return the words that a program prints, which has the scripts, `folder`, and the variables of a server."""
    start = f"import sys, pathlib; sys.path.append({str(SHARED_SCRIPTS)!r}); folder = pathlib.Path({str(folder)!r})\n"
    names = ("HOST", "PORT", "USER", "PASSWORD", "CA_FILE")
    variables = {f"CLICKHOUSE_{name}": "1" for name in names}
    command = [str(python), "-c", start + program]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split()


def test_a_failed_first_build_is_repeated_in_clickhouse(analytics_python: Path, tmp_path: Path) -> None:
    program = """
import os, warehouse
warehouse.current(folder).connect().close()
print(type(warehouse.current(folder)).__name__)
del os.environ["CLICKHOUSE_HOST"]
print(type(warehouse.current(folder)).__name__)
os.environ |= {"LAKE_SCHEMA": "weather", "S3_URL": "", "LAKE_RETENTION_SECONDS": "1"}
print(type(warehouse.current(folder)).__name__)
(folder / "warehouse.duckdb").unlink()  # a build that did not reach ClickHouse has made none
print(type(warehouse.current(folder)).__name__)
"""
    found = ["ClickHouseWarehouse", "FileWarehouse", "FileWarehouse", "LakeWarehouse"]
    assert printed(analytics_python, tmp_path, program) == found


@pytest.mark.parametrize(("groups", "statement"), [(20, "delete"), (20_000, "create")])
def test_a_server_that_differs_much_gets_all_rows(
    analytics_python: Path, tmp_path: Path, groups: int, statement: str
) -> None:
    program = f"""
import json, warehouse
statements = []
class Server:
    def has(self, table): return True
    def value(self, sql): return "id\\ningested_at\\nlanded_in"
    def run(self, sql, rows=None):
        statements.append(sql)
        of_others = [[build, "2026-11-01", 1, "1"] for build in range(2, {groups})]
        return "\\n".join(map(json.dumps, [[1, "1970-01-01", 1, "7"], *of_others])).encode()
private = warehouse.ClickHouseWarehouse(warehouse.FileWarehouse(folder / "warehouse.duckdb"), Server())
with private.connect() as connection:
    connection.execute("create schema landing; create table landing.landing_weather as "
        "select 7::bigint as id, timestamptz 'epoch' as ingested_at, 1::bigint as landed_in")
    private._send_landed(connection)
print(statements[1].split()[0], max(map(len, statements)))
"""
    first, longest = printed(analytics_python, tmp_path, program)
    assert first == statement
    assert int(longest) < 256 << 10


def test_login_certificate_and_outage_are_one_error_each(
    stack: Stack, clickhouse: Stack, server: clickhouse_server.Server
) -> None:
    insert(stack, all_samples()[:10])
    wrong = {"CLICKHOUSE_PASSWORD": "other"}, {"CLICKHOUSE_CA_FILE": str(server.folder / "other-ca.pem")}
    errors = ("Cannot log in to ClickHouse at 127.0.0.1", "Cannot verify the certificate of ClickHouse at 127.0.0.1")
    for environment, error in zip(wrong, errors, strict=True):
        report = clickhouse.build(*AS_OF, expect=EXIT.build_failed, **environment)
        assert [each["message"][: len(error)] for each in report["problems"]] == [error]
        assert not report["transient"]
        assert server.password not in json.dumps(report)
    server.stop()
    report = clickhouse.build(*AS_OF, expect=EXIT.failed)
    assert report["transient"]
    assert [each["message"][:30] for each in report["problems"]] == ["Cannot reach ClickHouse at 127"]
    server.start()
