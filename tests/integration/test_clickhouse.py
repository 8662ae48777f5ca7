"""The weather with `target: clickhouse`, on a real PostgreSQL 16 and ClickHouse's engine, compared with a file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from tests.integration import clickhouse_server
from tests.integration.conftest import write_profiles
from tests.integration.test_marts import all_samples, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack

from contract import EXIT  # isort: skip

pytestmark = [
    pytest.mark.skipif(not clickhouse_server.is_installed(), reason="chdb is not installed: ./bootstrap --test"),
    pytest.mark.timeout(600),
]
AS_OF = ("--as-of", "2013-06-01T00:00:00+00:00")


@dataclass
class ClickHouseStack(Stack):
    """The weather with `target: clickhouse`."""

    variables: tuple[tuple[str, str], ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **dict(self.variables)}


@pytest.fixture
def server() -> Iterator[clickhouse_server.Server]:
    with clickhouse_server.server() as running:
        yield running


@pytest.fixture
def clickhouse(stack: Stack, server: clickhouse_server.Server, extensions: Path, tmp_path: Path) -> ClickHouseStack:
    """The same raw rows as `stack`, another folder of data, and ClickHouse."""
    data = tmp_path / "clickhouse"
    data.mkdir()
    write_profiles(data, extensions, "1GB", clickhouse=True)
    base = {name: getattr(stack, name) for name in ("server", "python", "database", "base_url")}
    # Two runs of dbt: twice as long as in a file, also on a busy machine.
    return ClickHouseStack(data=data, timeout=2 * stack.timeout, variables=tuple(server.variables.items()), **base)


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


def test_builds_have_the_same_rows_as_those_of_the_file(
    stack: Stack, clickhouse: ClickHouseStack, server: clickhouse_server.Server
) -> None:
    samples = all_samples()
    insert(stack, samples[:3000])
    reports = [each.build(*AS_OF) for each in (stack, clickhouse)]
    assert all(report["full_refresh"] for report in reports)
    # No test is left out: those of the landed rows ran in DuckDB, all others in ClickHouse.
    assert reports[0]["tests_passed"] == reports[1]["tests_passed"] > 70
    found = compare(stack, clickhouse)
    assert found["landing_weather"] == 3000
    # New and repeated observations, and an exclusion: an increment.
    insert(stack, samples[2900:5000])
    exclude_a_day(stack)
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, clickhouse))
    more = compare(stack, clickhouse)
    assert more["landing_weather"] == 5100
    assert more["weather_hourly"] > found["weather_hourly"]
    # Readers of ClickHouse have the marts, views as tables.
    marts = "select count() from weather.{}"
    for name in ("weather_hourly", "weather_daily", "weather_records", "weather_completeness"):
        assert int(server.query(marts.format(name))) == more[name], name
    logged = "".join(path.read_text() for path in clickhouse.data.glob("logs/dbt.log*"))
    assert server.password not in logged


def test_login_certificate_and_outage_are_one_error_each(
    stack: Stack, clickhouse: ClickHouseStack, server: clickhouse_server.Server
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


def test_history_moves_to_clickhouse_and_back(
    stack: Stack, clickhouse: ClickHouseStack, server: clickhouse_server.Server
) -> None:
    samples = all_samples()
    insert(stack, samples[:2000])
    stack.build(*AS_OF)
    for name in ("warehouse.duckdb", "published.duckdb"):
        shutil.copyfile(stack.data / name, clickhouse.data / name)
    move = ("move_target.py", "--data", str(clickhouse.data), "--to")
    assert "no clickhouse" in stack.script(*move, "clickhouse", expect=EXIT.bad_input).stderr
    outcome = json.loads(clickhouse.script(*move, "clickhouse").stdout)
    assert outcome["moved"]
    assert outcome["rows"] > 2000
    assert not json.loads(clickhouse.script(*move, "clickhouse").stdout)["moved"]
    # The next build continues there: nothing is rebuilt.
    insert(stack, samples[2000:3000])
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, clickhouse))
    assert compare(stack, clickhouse)["landing_weather"] == 3000
    # A server that has lost its tables gets them from the file.
    for database in ("landing", "main"):
        server.query(f"drop database {database}")
    insert(stack, samples[3000:3500])
    exclude_a_day(stack)
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, clickhouse))
    assert compare(stack, clickhouse)["landing_weather"] == 3500
    # Back, and there again.
    assert json.loads(clickhouse.script(*move, "file").stdout)["moved"]
    assert json.loads(clickhouse.script(*move, "clickhouse").stdout)["moved"]
    # A row that differs switches nothing.
    server.query(
        "alter table main.weather_daily update rain_mm = 99 where city = 'Newark,US' settings mutations_sync = 2"
    )
    differs = clickhouse.script(*move, "file", expect=EXIT.failed)
    assert "main.weather_daily has " in differs.stderr
    assert (clickhouse.data / "history_in").read_text().strip() == "clickhouse"
    # Without access to ClickHouse, builds continue in the file, which has all rows.
    in_file = Stack(**{each.name: getattr(clickhouse, each.name) for each in fields(Stack)})
    insert(stack, samples[3500:3600])
    assert not any(each.build(*AS_OF)["full_refresh"] for each in (stack, in_file))
    assert compare(stack, in_file)["landing_weather"] == 3600
