"""The weather with `target: clickhouse`, on a real PostgreSQL 16 and ClickHouse's engine, compared with a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration import clickhouse_server
from tests.integration.conftest import write_profiles
from tests.integration.test_marts import all_samples, insert
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack

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
    base = {name: getattr(stack, name) for name in ("server", "python", "database", "base_url", "timeout")}
    return ClickHouseStack(data=data, variables=tuple(server.variables.items()), **base)


def compare(stack: Stack, clickhouse: Stack, *words: str) -> dict[str, int]:
    """Compare all rows of both published files, or of `marts`; return the number of rows of each table."""
    program = Path(__file__).with_name("compare_published.py").read_text()
    output = stack.script_of(
        program, str(clickhouse.data / "published.duckdb"), *words, path=str(stack.data / "published.duckdb")
    )
    counts: dict[str, int] = json.loads(output)
    return counts


def test_builds_have_the_same_rows_as_those_of_the_file(
    stack: Stack, clickhouse: ClickHouseStack, server: clickhouse_server.Server
) -> None:
    samples = all_samples()
    insert(stack, samples[:3000])
    for each in (stack, clickhouse):
        assert each.build(*AS_OF)["full_refresh"]
    found = compare(stack, clickhouse)
    assert found["landing_weather"] == 3000
    # New and repeated observations, and an exclusion: an increment.
    insert(stack, samples[2900:5000])
    period = ("--from", "2013-01-03", "--to", "2013-01-04", "--reason", "test", "--by", "test")
    stack.script("exclusions.py", "add", "--city", "Newark,US", *period)
    for each in (stack, clickhouse):
        report = each.build(*AS_OF)
        assert not report["full_refresh"]
    more = compare(stack, clickhouse)
    assert more["landing_weather"] == 5100
    assert more["weather_hourly"] > found["weather_hourly"]
