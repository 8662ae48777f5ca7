"""The marts compared with pandas, for all observations of the data set in increments, late and repeated.

Also: a build that is killed at any moment leaves readers a complete file, and the next build continues.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from homelab.lab.observations import PLACES, answer, load
from tests.integration.test_pipeline import CITIES, Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import PROJECT

from contract import EXIT  # isort: skip

KILLS = int(os.environ.get("HOMELAB_KILLS", "3"))

pytestmark = pytest.mark.timeout(300 + 30 * KILLS)
BUILT = (
    "stg_weather",
    "weather_hourly",
    "weather_daily",
    "weather_records",
    "weather_month_to_date",
    "weather_completeness",
    "cities",
)


@dataclass(frozen=True)
class Sample:
    """An observation as a row of the data set, and as OpenWeather's response."""

    city: str
    time: pd.Timestamp
    row: dict[str, str]
    data: dict[str, Any]


def all_samples() -> list[Sample]:
    """Return all observations in the data set's order."""
    return [
        Sample(CITIES[place.station], pd.Timestamp(seen.time), dict(seen.row), answer(place, seen, "imperial"))
        for place in PLACES
        for seen in load()[place.station]
    ]


def insert(stack: Stack, samples: Sequence[Sample], age: str = "0 s") -> None:
    """Insert responses with the ingestion's role, ingested `age` ago."""
    with stack.server.connect(stack.database, "analytics", "analytics") as connection, connection.transaction():
        when = connection.execute(f"select now() - interval '{age}'".encode()).fetchone()
        assert when
        with connection.cursor().copy(
            "copy raw.weather_observations (city, ingested_at, units, data) from stdin"
        ) as copy:
            for one in samples:
                copy.write_row((one.city, when[0], "imperial", json.dumps(one.data)))


def frame(samples: Sequence[Sample]) -> pd.DataFrame:
    """Return the data set's rows, each city and time once, in its last version."""
    rows = pd.DataFrame([{**one.row, "city": one.city, "time": one.time} for one in samples])
    return convert(rows.drop_duplicates(["city", "time"], keep="last"))


def convert(rows: pd.DataFrame) -> pd.DataFrame:
    """Convert the data set's rows, with `city` and `time`, to the marts' units."""
    measured = {
        column: pd.to_numeric(rows[column], errors="coerce")
        for column in ("temp", "humid", "pressure", "wind_speed", "wind_gust", "precip", "visib", "wind_dir")
    }
    precipitation = (measured["precip"].fillna(0)).map(lambda inches: round(inches * 25.4, 2))
    freezing = measured["temp"] <= 32
    return pd.DataFrame(
        {
            "city": rows["city"],
            "time": rows["time"],
            "hour": rows["time"].dt.floor("h"),
            "day": rows["time"].dt.strftime("%Y-%m-%d"),
            "temperature": measured["temp"],
            "humidity": measured["humid"],
            "pressure": measured["pressure"],
            # One row has 1,048 mph, which the models leave out as implausible.
            "wind": measured["wind_speed"].map(lambda mph: round(mph, 2)).where(lambda mph: mph <= 260),
            "gust": measured["wind_gust"].map(lambda mph: round(mph, 2)).where(lambda mph: mph <= 320),
            "direction": measured["wind_dir"],
            "visibility": measured["visib"].map(lambda miles: min(10_000, round(miles * 1609.344))),
            "rain": precipitation.where(~freezing, 0.0),
            "snow": precipitation.where(freezing, 0.0),
        }
    )


def hourly(seen: pd.DataFrame) -> pd.DataFrame:
    """Compute weather_hourly with pandas."""
    found = (
        seen.groupby(["city", "hour"])
        .agg(
            observations=("time", "size"),
            temperature_mean_f=("temperature", "mean"),
            humidity_mean_pct=("humidity", "mean"),
            pressure_mean_hpa=("pressure", "mean"),
            wind_speed_mean_mph=("wind", "mean"),
            wind_gust_max_mph=("gust", "max"),
            visibility_min_m=("visibility", "min"),
        )
        .reset_index()
    )
    found = with_precipitation(found, seen.assign(hour=seen["hour"] - pd.Timedelta(hours=1)), "hour")
    found.insert(1, "observation_hour", found.pop("hour").dt.strftime("%Y-%m-%dT%H:00:00+00:00"))
    return found


def with_precipitation(found: pd.DataFrame, seen: pd.DataFrame, period: str) -> pd.DataFrame:
    """Add rain and snow: each hourly observation reports those of the hour before it, without any overlap."""
    sums = seen.groupby(["city", period]).agg(
        rain_mm=("rain", "sum"), snow_mm=("snow", "sum"), covered=("rain", "size")
    )
    both = found.merge(sums.round(2).reset_index(), how="outer", on=["city", period])
    both["observations"] = both["observations"].fillna(0)
    return both[(both["observations"] > 0) | (both["rain_mm"] > 0) | (both["snow_mm"] > 0)].reset_index(drop=True)


def daily(seen: pd.DataFrame) -> pd.DataFrame:
    """Compute weather_daily with pandas."""
    seen = seen.sort_values("time")
    seen["gap"] = seen.groupby(["city", "day"])["time"].diff().dt.total_seconds() / 3600
    seen["temperature_hour"] = seen["hour"].where(seen["temperature"].notna())
    seen["wind_hour"] = seen["hour"].where(seen["wind"].notna())
    days = (
        seen.groupby(["city", "day"])
        .agg(
            observations=("time", "size"),
            temperature_min_f=("temperature", "min"),
            temperature_mean_f=("temperature", "mean"),
            temperature_max_f=("temperature", "max"),
            humidity_mean_pct=("humidity", "mean"),
            pressure_mean_hpa=("pressure", "mean"),
            wind_speed_mean_mph=("wind", "mean"),
            wind_speed_max_mph=("wind", "max"),
            wind_gust_max_mph=("gust", "max"),
            hours_observed=("hour", "nunique"),
            temperature_hours_observed=("temperature_hour", "nunique"),
            wind_hours_observed=("wind_hour", "nunique"),
            longest_gap_h=("gap", "max"),
        )
        .reset_index()
    )
    before = seen["time"] - pd.Timedelta(hours=1)
    days = with_precipitation(days, seen.assign(day=before.dt.strftime("%Y-%m-%d")), "day")
    hours = ["hours_observed", "temperature_hours_observed", "wind_hours_observed"]
    days[hours] = days[hours].fillna(0)
    middle = (days["temperature_min_f"] + days["temperature_max_f"]) / 2
    days["heating_degree_days_f"] = (65 - middle).clip(lower=0)
    days["cooling_degree_days_f"] = (middle - 65).clip(lower=0)
    return days.rename(columns={"day": "observation_date"})


def check(stack: Stack, samples: Sequence[Sample]) -> None:
    """Compare every row of the marts with pandas."""
    seen = frame(samples)
    days = daily(seen)
    for name, wanted in (("weather_hourly", hourly(seen)), ("weather_daily", days)):
        found, wanted = stack.table(name), wanted.drop(columns="covered")
        assert len(found) == len(wanted)
        pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False, rtol=1e-9, atol=1e-9)

    records = stack.table("weather_records").set_index(["city", "record"])
    for city, own in days.groupby("city"):
        for record, column, end, hours in (
            ("hottest day", "temperature_max_f", "max", "temperature_hours_observed"),
            ("wettest day", "rain_mm", "max", "covered"),
            ("coldest day", "temperature_min_f", "min", "temperature_hours_observed"),
            ("strongest gust", "wind_gust_max_mph", "max", "wind_hours_observed"),
        ):
            enough = own[own[hours] >= 18]
            values = enough[column].round(6)  # the last digit of a sum depends on the order
            first = enough.loc[values == values.agg(end), "observation_date"].min()
            assert records.loc[(city, record), "value"] == pytest.approx(values.agg(end))
            assert records.loc[(city, record), "observation_date"] == first

    completeness = stack.table("weather_completeness").groupby("city")[["times_expected", "times_observed"]].sum()
    for city, own in seen.groupby("city"):
        expected = (own["hour"].max() - own["hour"].min()).total_seconds() / 3600 + 1 + 7 * 24  # then it is inactive
        assert completeness.loc[city].tolist() == [expected, own["hour"].nunique()]

    month = stack.table("weather_month_to_date").set_index("city")
    for city, own in days.groupby("city"):
        own = own[own["hours_observed"] >= 18]
        through = own["observation_date"].max()
        these = own[own["observation_date"].between(through[:8] + "01", through)]
        assert month.loc[city, "through"] == through
        known = these[these["temperature_hours_observed"] >= 18]
        assert month.loc[city, "temperature_mean_f"] == pytest.approx(known["temperature_mean_f"].mean())
        assert month.loc[city, "rain_mm"] == pytest.approx(these.loc[these["covered"] >= 18, "rain_mm"].sum())


def logged_queries(stack: Stack, since: int) -> list[str]:
    """Return the queries of the observations in PostgreSQL's log, from this offset in bytes on."""
    with (stack.server.data.parent / "log").open() as file:
        file.seek(since)
        return [" ".join(text.split()) for text in file.read().split("LOG:  ") if "weather_observations" in text]


def test_all_26115_observations_in_increments_late_and_repeated_equal_pandas(stack: Stack) -> None:
    samples = all_samples()
    assert len(samples) == 26_115
    half = len(samples) * 6 // 10
    late = samples[25:half:50]
    first = [one for number, one in enumerate(samples[:half]) if number % 50 != 25]
    with stack.server.connect(stack.database) as connection:  # for rows that were ingested days ago
        connection.execute(
            "create table raw.before partition of raw.weather_observations for values from (minvalue) "
            f"to ('{datetime.now(UTC):%Y-%m-01} 00:00+00')".encode()
        )
    insert(stack, first, "3 days")
    assert stack.build()["rows_tested"] == "all"

    insert(stack, samples[half:])
    insert(stack, first[:100])  # repeated
    with stack.server.connect() as connection:
        connection.execute("alter role dbt set log_statement = 'all'")
    log = (stack.server.data.parent / "log").stat().st_size
    report = stack.build()
    assert (report["status"], report["rows_tested"], report["full_refresh"]) == ("success", "new", False)
    queries = logged_queries(stack, log)
    assert len([sql for sql in queries if "data #>>" in sql and "where inserted_xid >= '" in sql]) >= 1
    assert [sql for sql in queries if "data #>>" in sql and "where inserted_xid >= '" not in sql] == []

    insert(stack, late, "5 minutes")  # committed late: older than rows that were read before
    moved = {**first[0].data, "coord": {"lat": 41.0, "lon": -74.1724}}
    insert(stack, [Sample(first[0].city, first[0].time, first[0].row, moved)])
    assert stack.build()["rows_tested"] == "new"
    check(stack, [*first, *late, *samples[half:], *first[:100], first[0]])
    assert stack.query("select count(*) as n from stg_weather") == [{"n": 26_115}]
    assert stack.query("select count(*) as n from landing_weather") == [{"n": 26_115 + 101}]
    versions = "select latitude_deg as at, valid_to is null as now from city_history where city = 'Newark,US'"
    assert stack.query(f"{versions} order by valid_from") == [{"at": 41.0, "now": False}, {"at": 40.7357, "now": True}]
    assert stack.query("select latitude_deg as at from cities where city = 'Newark,US'") == [{"at": 40.7357}]

    increments = {name: stack.table(name) for name in BUILT}
    modify(stack, "delete from weather_hourly where observation_hour = '2013-02-03 04:00:00+00'")
    assert stack.build("--test-all", expect=EXIT.build_failed)["tests_failed"] == 1
    assert stack.build("--full-refresh")["full_refresh"] is True
    for name in BUILT:
        pd.testing.assert_frame_equal(stack.table(name), increments[name], rtol=1e-12)


def modify(stack: Stack, sql: str) -> None:
    """Change the private warehouse directly."""
    subprocess.run(
        [
            str(stack.python),
            "-c",
            "import duckdb, sys; c = duckdb.connect(sys.argv[1]); "
            "c.execute(\"set TimeZone = 'UTC'\"); c.execute(sys.argv[2])",
            str(stack.data / "warehouse.duckdb"),
            sql,
        ],
        check=True,
    )


def test_full_refresh_after_an_upgrade_keeps_rows_that_the_retention_dropped(stack: Stack) -> None:
    samples = all_samples()[:60]
    month = datetime.now(UTC).replace(day=1)
    with stack.server.connect(stack.database) as connection:
        connection.execute(
            "create table raw.before partition of raw.weather_observations for values from (minvalue) "
            f"to ('{month:%Y-%m-%d} 00:00+00')".encode()
        )
    insert(stack, samples[:10], f"{month.day + (datetime.now(UTC) - month).days + 1} days")
    insert(stack, samples[10:30])
    stack.build()
    with stack.server.connect(stack.database) as connection:
        connection.execute("insert into raw.dropped_months select min(ingested_at) from raw.before")
        connection.execute("update raw.dropped_months set month = date_trunc('month', month)")
        connection.execute("drop table raw.before")
    # The state of an earlier version: an additional column, a missing one, and no test state.
    modify(stack, "alter table landing.landing_weather add column dt bigint")
    modify(stack, "alter table landing.landing_weather drop column snow")
    modify(stack, "drop table landing.test_state")
    assert stack.build()["full_refresh"] is True
    assert stack.query("select count(*) as n, sum(id) as ids from stg_weather") == [{"n": 30, "ids": 465}]
    insert(stack, samples[30:])
    assert stack.build()["full_refresh"] is False
    assert stack.query("select sum(observations) as n from weather_daily") == [{"n": 60}]


NEW_COLUMNS = ("temperature_hours_observed", "wind_hours_observed")


def earlier_version(folder: Path) -> Path:
    """Return a copy of the dbt project in which weather_daily lacks the new columns."""
    project = folder / "earlier"
    shutil.copytree(PROJECT, project)
    marts = project / "models" / "marts"
    daily = marts / "weather_daily.sql"
    daily.write_text("".join(line for line in daily.open() if not any(name in line for name in NEW_COLUMNS)))
    described = yaml.safe_load((marts / "weather_daily.yml").read_text())
    (model,) = described["models"]
    model["columns"] = [column for column in model["columns"] if column["name"] not in NEW_COLUMNS]
    (marts / "weather_daily.yml").write_text(
        re.sub(rf"- ({'|'.join(NEW_COLUMNS)})\n\s*", "", yaml.safe_dump(described))
    )
    for name in ("weather_records.sql", "weather_month_to_date.sql", "marts.yml"):
        text = (marts / name).read_text()
        (marts / name).write_text(re.sub("|".join(NEW_COLUMNS), "hours_observed", text))
    return project


def check_upgrade(stack: Stack, folder: Path) -> None:
    """Build with an earlier version, then hourly with this one: every day gets the new columns."""
    samples, as_of = all_samples()[:120], ("--as-of", "2013-02-01T00:00:00+00:00")
    insert(stack, samples[:90])
    stack.build(*as_of, "--project", str(earlier_version(folder)))
    (earlier,) = stack.query("from weather_daily limit 1")
    assert not earlier.keys() & set(NEW_COLUMNS)
    for first, last, full_refresh in ((90, 110, True), (110, 120, False)):
        insert(stack, samples[first:last])
        report = stack.build(*as_of)
        assert (report["status"], report["full_refresh"]) == ("success", full_refresh)
        wanted = daily(frame(samples[:last]))[["observation_date", *NEW_COLUMNS]]
        pd.testing.assert_frame_equal(stack.table("weather_daily")[wanted.columns], wanted, check_dtype=False)


def test_hourly_build_after_an_upgrade_adds_columns_to_the_whole_history(stack: Stack, tmp_path: Path) -> None:
    check_upgrade(stack, tmp_path)


READER = """
import sys, time
from pathlib import Path
import duckdb
seen, path, stop = 0, Path(sys.argv[1]), Path(sys.argv[2])
while not stop.exists():
    with duckdb.connect(str(path), read_only=True) as connection:
        daily, hourly, raw = connection.execute('''select (select sum(observations) from weather_daily),
            (select sum(observations) from weather_hourly), (select count(*) from staging.stg_weather)''').fetchone()
    assert daily == hourly == raw >= seen, (daily, hourly, raw, seen)
    seen = raw
    print(seen, flush=True)
    time.sleep(0.02)
"""


def test_killed_build_leaves_a_complete_file_and_the_next_one_continues(stack: Stack, tmp_path: Path) -> None:
    samples = all_samples()[:200]
    insert(stack, samples[:100])
    started = time.monotonic()
    stack.build()
    duration = time.monotonic() - started
    stop, chance = tmp_path / "stop", random.Random(5)  # noqa: S311 - not for secrets
    reader = subprocess.Popen(
        [str(stack.python), "-c", READER, str(stack.published), str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(KILLS):
            insert(stack, [samples[100 + number]])
            stack.kill_build(chance.uniform(0.2, duration))
    finally:
        report = stack.build()
        stop.touch()
        lines, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert report["status"] == "success"
    assert len(lines.splitlines()) > 10 * KILLS
    expected = 100 + KILLS
    assert stack.query("select count(*) as n, count(distinct id) as ids from stg_weather") == [
        {"n": expected, "ids": expected}
    ]
    assert stack.query("select sum(observations) as n from weather_daily") == [{"n": expected}]
    files = sorted(path.name for path in stack.data.glob("published*"))
    assert files[-1] == "published.duckdb"
    assert len(files) <= 4, "a link, and the newest three files"


def test_observation_is_the_same_in_all_units(stack: Stack) -> None:
    windy = next(one for one in load()["EWR"] if all(one.number(name) for name in ("wind_gust", "precip", "pressure")))
    with stack.server.connect(stack.database, "analytics", "analytics") as connection:
        for units in ("imperial", "metric", "standard"):
            connection.execute(
                "insert into raw.weather_observations (city, units, data) values (%s, %s, %s)",
                (units, units, json.dumps(answer(PLACES[0], windy, units))),
            )
        connection.execute("insert into raw.ingestion_starts values (gen_random_uuid(), now())")
    stack.build()
    rows = stack.table("stg_weather").set_index("city").drop(columns=["id", "ingested_at", "city_timezone"])
    imperial = rows.loc["imperial"]
    assert imperial["wind_gust_mph"] == pytest.approx(windy.number("wind_gust"), abs=0.01)
    for units in ("metric", "standard"):
        for column, value in rows.loc[units].items():
            assert value == (
                pytest.approx(imperial[column], abs=0.02) if isinstance(value, float) else imperial[column]
            ), (units, column)
    assert rows.loc["imperial"].notna().sum() == len(rows.columns), "a column has no value to compare"
    runs = stack.query("select outcome, finished_at from pipeline_runs")
    assert runs == [{"outcome": "interrupted", "finished_at": None}]
