"""Many cities through the whole pipeline, hour by hour: every row of the marts equals pandas.

HOMELAB_CITIES is their number, 2,000 by default; 200,000 take some minutes.
"""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from homelab.lab.observations import PLACES, load
from tests.integration.conftest import KEY, Replay, replay_server
from tests.integration.test_marts import convert, daily, hourly
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack

CITIES, HOURS = int(os.environ.get("HOMELAB_CITIES", "2000")), 2
pytestmark = pytest.mark.timeout(180 + CITIES // 50)
# As text, independent of a client's time zone.
READ = """
import duckdb, sys
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(f"copy ({sys.argv[2]}) to '{sys.argv[3]}' (header)")
"""


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    with replay_server(tmp_path, "--generated", str(CITIES)) as running:
        yield running


def generated_weather() -> pd.DataFrame:
    """Return the weather of the cities 1, 2, …: that of one of the stations, each city one hour further ahead."""
    stations = {
        station: pd.DataFrame([{**seen.row, "time": pd.Timestamp(seen.time)} for seen in rows])
        for station, rows in load().items()
    }
    numbers = pd.Series(range(1, CITIES + 1))
    found = []
    for remainder, place in enumerate(PLACES):
        own, rows = numbers[numbers % len(PLACES) == remainder], stations[place.station]
        found += [
            rows.iloc[((own + hour) % len(rows)).to_numpy()].assign(city=[f"City {n}" for n in own])
            for hour in range(HOURS)
        ]
    return convert(pd.concat(found, ignore_index=True))


def read(stack: Stack, sql: str) -> pd.DataFrame:
    """Return the rows of a query of the published file."""
    table = stack.data / "table.csv"
    subprocess.run([str(stack.python), "-c", READ, str(stack.published), sql, str(table)], check=True)
    return pd.read_csv(table)


def test_many_cities_equal_pandas(stack: Stack, replay: Replay, tmp_path: Path) -> None:
    stack.timeout = 180 + CITIES / 100
    cities = tmp_path / "cities.csv"
    cities.write_text("name,id\n" + "".join(f"City {n},{n}\n" for n in range(1, CITIES + 1)))
    for hour in range(HOURS):
        if hour:
            urllib.request.urlopen(f"{replay.url}/_hour?appid={KEY}", data=b"", timeout=10).close()  # noqa: S310
        done = stack.script(
            "ingest_weather.py",
            WEATHER_CITIES_FILE=str(cities),
            OPENWEATHER_RATE_LIMIT="0",
            OPENWEATHER_DEADLINE="7200",
            WEATHER_SPOOL_MEGABYTES="1024",
        )
        assert f'"stored": {CITIES},' in done.stdout
        assert stack.build("--wait", "1")["status"] == "success"

    seen = generated_weather()
    days = daily(seen).drop(columns="covered")
    found = read(
        stack,
        "select * replace (strftime(observation_hour, '%Y-%m-%dT%H:00:00+00:00') as observation_hour) "
        "from weather_hourly order by city, weather_hourly.observation_hour",
    )
    expected = hourly(seen).drop(columns="covered")
    assert len(found) == len(expected)
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False, rtol=1e-9, atol=1e-9)
    found = read(stack, "from weather_daily order by city, observation_date")
    assert len(found) == len(days)
    pd.testing.assert_frame_equal(found[days.columns], days, check_dtype=False, rtol=1e-9, atol=1e-9)
    assert found["observations"].sum() == CITIES * HOURS

    assert read(stack, "from weather_records").empty, "two hours are not enough of a day"
    own = seen.groupby("city")["hour"].agg(["min", "max", "nunique"])
    until = own["max"] + pd.Timedelta(days=7)
    completeness = read(
        stack,
        "select city, sum(times_expected)::bigint as expected, sum(times_observed)::bigint as "
        "observed from weather_completeness group by city order by city",
    ).set_index("city")
    assert (completeness["expected"] == (until - own["min"]).dt.total_seconds() / 3600 + 1).all()
    assert (completeness["observed"] == own["nunique"]).all()
    assert len(completeness) == CITIES
    assert len(read(stack, "select city from cities where place_name = 'Generated ' || place_id")) == CITIES
