"""The marts beside an independent computation: every observation of the data set, told in pieces, late and twice.

And what a build promises while it runs: killed anywhere it leaves readers a whole file, and the next one goes on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from homelab.lab.observations import PLACES, answer, load
from tests.integration.test_pipeline import CITIES, Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCRIPTS

KILLS = int(os.environ.get("HOMELAB_KILLS", "3"))
pytestmark = pytest.mark.timeout(300 + 30 * KILLS)
BUILT = (
    "stg_weather",
    "weather_hourly",
    "weather_daily",
    "weather_records",
    "weather_month_to_date",
    "weather_quality",
    "cities",
)


@dataclass(frozen=True)
class Told:
    """An observation as the data set has it, and as OpenWeather would have told it."""

    city: str
    time: pd.Timestamp
    row: dict[str, str]
    data: dict[str, Any]


def everything() -> list[Told]:
    """All observations in the data set's order."""
    return [
        Told(CITIES[place.station], pd.Timestamp(seen.time), dict(seen.row), answer(place, seen, "imperial"))
        for place in PLACES
        for seen in load()[place.station]
    ]


def tell(stack: Stack, told: Sequence[Told], age: str = "0 s") -> None:
    """Put answers into Postgres with the role that may, as if that had been `age` ago."""
    with stack.server.connect(stack.database, "analytics", "analytics") as connection, connection.transaction():
        when = connection.execute(f"select now() - interval '{age}'".encode()).fetchone()
        assert when
        with connection.cursor().copy(
            "copy raw.weather_observations (city, ingested_at, units, data) from stdin"
        ) as copy:
            for one in told:
                copy.write_row((one.city, when[0], "imperial", json.dumps(one.data)))


def frame(told: Sequence[Told]) -> pd.DataFrame:
    """What pandas reads from the data set's own rows; each city's hour once, as it was last told."""
    rows = pd.DataFrame([{**one.row, "city": one.city, "time": one.time} for one in told])
    return measured_in(rows.drop_duplicates(["city", "time"], keep="last"))


def measured_in(rows: pd.DataFrame) -> pd.DataFrame:
    """The data set's own rows, with their `city` and `time`, in the marts' units."""
    measured = {
        column: pd.to_numeric(rows[column], errors="coerce")
        for column in ("temp", "humid", "pressure", "wind_speed", "wind_gust", "precip", "visib", "wind_dir")
    }
    fallen = (measured["precip"].fillna(0)).map(lambda inches: round(inches * 25.4, 2))
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
            "wind": measured["wind_speed"].map(lambda mph: round(mph, 2)),
            "gust": measured["wind_gust"].map(lambda mph: round(mph, 2)),
            "direction": measured["wind_dir"],
            "visibility": measured["visib"].map(lambda miles: min(10_000, round(miles * 1609.344))),
            "rain": fallen.where(~freezing, 0.0),
            "snow": fallen.where(freezing, 0.0),
        }
    )


def hourly(seen: pd.DataFrame) -> pd.DataFrame:
    """weather_hourly as pandas has it."""
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
            rain_mm=("rain", "max"),
            snow_mm=("snow", "max"),
        )
        .reset_index()
    )
    found.insert(1, "observation_hour", found.pop("hour").dt.strftime("%Y-%m-%dT%H:00:00+00:00"))
    return found


def daily(seen: pd.DataFrame) -> pd.DataFrame:
    """weather_daily as pandas has it."""
    seen = seen.sort_values("time")
    seen["gap"] = seen.groupby(["city", "day"])["time"].diff().dt.total_seconds() / 3600
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
            longest_gap_h=("gap", "max"),
        )
        .reset_index()
    )
    fallen = seen.groupby(["city", "day", "hour"])[["rain", "snow"]].max().groupby(["city", "day"]).sum()
    days["rain_mm"], days["snow_mm"] = fallen["rain"].to_numpy(), fallen["snow"].to_numpy()
    middle = (days["temperature_min_f"] + days["temperature_max_f"]) / 2
    days["heating_degree_days_f"] = (65 - middle).clip(lower=0)
    days["cooling_degree_days_f"] = (middle - 65).clip(lower=0)
    return days.rename(columns={"day": "observation_date"})


def check(stack: Stack, told: Sequence[Told]) -> None:
    """Every row of the marts is what pandas says."""
    seen = frame(told)
    days = daily(seen)
    for name, wanted in (("weather_hourly", hourly(seen)), ("weather_daily", days)):
        found = stack.table(name)
        assert len(found) == len(wanted)
        pd.testing.assert_frame_equal(found[wanted.columns], wanted, check_dtype=False, rtol=1e-9, atol=1e-9)

    records = stack.table("weather_records").set_index(["city", "record"])
    for city, own in days.groupby("city"):
        for record, column, end in (
            ("hottest day", "temperature_max_f", "max"),
            ("wettest day", "rain_mm", "max"),
            ("coldest day", "temperature_min_f", "min"),
            ("strongest gust", "wind_gust_max_mph", "max"),
        ):
            values = own[column].round(6)  # a sum depends on the order, in its last digit
            first = own.loc[values == values.agg(end), "observation_date"].min()
            assert records.loc[(city, record), "value"] == pytest.approx(values.agg(end))
            assert records.loc[(city, record), "observation_date"] == first

    quality = stack.table("weather_quality").groupby("city")[["hours_expected", "hours_observed"]].sum()
    for city, own in seen.groupby("city"):
        expected = (seen["hour"].max() - own["hour"].min()).total_seconds() / 3600 + 1
        assert quality.loc[city].tolist() == [expected, own["hour"].nunique()]

    month = stack.table("weather_month_to_date").set_index("city")
    for city, own in days.groupby("city"):
        through = own["observation_date"].max()
        these = own[own["observation_date"].between(through[:8] + "01", through)]
        assert month.loc[city, "through"] == through
        assert month.loc[city, "temperature_mean_f"] == pytest.approx(these["temperature_mean_f"].mean())
        assert month.loc[city, "rain_mm"] == pytest.approx(these["rain_mm"].sum())


def asked(stack: Stack, since: int) -> list[str]:
    """What Postgres was asked about the observations since its log was that long."""
    with (stack.server.data.parent / "log").open() as file:
        file.seek(since)
        return [" ".join(text.split()) for text in file.read().split("LOG:  ") if "weather_observations" in text]


def test_all_26115_observations_told_in_pieces_late_and_twice_equal_pandas(stack: Stack) -> None:
    told = everything()
    assert len(told) == 26_115
    half = len(told) * 6 // 10
    late = told[25:half:50]
    first = [one for number, one in enumerate(told[:half]) if number % 50 != 25]
    with stack.server.connect(stack.database) as connection:  # the data set's hours are told as of some days ago
        connection.execute(
            "create table raw.before partition of raw.weather_observations for values from (minvalue) "
            f"to ('{datetime.now(UTC):%Y-%m-01} 00:00+00')".encode()
        )
    tell(stack, first, "3 days")
    assert stack.transform()["tested"] == "everything"

    tell(stack, told[half:])
    tell(stack, first[:100])  # once more
    with stack.server.connect() as connection:
        connection.execute("alter role dbt set log_statement = 'all'")
    log = (stack.server.data.parent / "log").stat().st_size
    report = stack.transform()
    assert (report["status"], report["tested"], report["full_refresh"]) == ("success", "new rows", False)
    reads = asked(stack, log)
    assert len([sql for sql in reads if "data #>>" in sql and "where ingested_at > '20" in sql]) >= 1
    assert [sql for sql in reads if "data #>>" in sql and "where ingested_at > '20" not in sql] == []

    tell(stack, late, "5 minutes")  # committed late: older than what has been read already
    moved = {**first[0].data, "coord": {"lat": 41.0, "lon": -74.1724}}
    tell(stack, [Told(first[0].city, first[0].time, first[0].row, moved)])
    placeless = {key: value for key, value in moved.items() if key not in ("coord", "sys", "id", "name")}
    tell(stack, [Told(first[0].city, first[0].time, first[0].row, placeless)])  # as the history API tells it
    assert stack.transform()["tested"] == "new rows"
    check(stack, [*first, *late, *told[half:], *first[:100], first[0]])
    assert stack.query("select count(*) as n from stg_weather") == [{"n": 26_115 + 102}]
    versions = "select latitude_deg as at, dbt_valid_to is null as now from city_history where city = 'Newark,US'"
    assert stack.query(f"{versions} order by dbt_valid_from") == [
        {"at": 40.7357, "now": False},
        {"at": 41.0, "now": True},
    ]
    assert stack.query("select latitude_deg as at from cities where city = 'Newark,US'") == [{"at": 41.0}]

    increments = {name: stack.table(name) for name in BUILT}
    spoil(stack, "delete from weather_hourly where observation_hour = '2013-02-03 04:00:00+00'")
    assert stack.transform("--test-everything", expect=1)["tests_failed"] == 1
    assert stack.transform("--full-refresh")["full_refresh"] is True
    for name in BUILT:
        pd.testing.assert_frame_equal(stack.table(name), increments[name], rtol=1e-12)


def spoil(stack: Stack, sql: str) -> None:
    """Change the private warehouse behind everybody's back."""
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


def test_built_anew_after_an_upgrade_and_with_what_the_retention_has_dropped(stack: Stack) -> None:
    told = everything()[:60]
    tell(stack, told[:10], "1 minute")
    tell(stack, told[10:30])
    stack.transform()
    with stack.server.connect(stack.database) as connection:
        connection.execute("delete from raw.weather_observations where id <= 10")
    # As an earlier version left it: with columns of its own, without others, and without the record of what is tested.
    spoil(stack, "alter table landing.landing_weather add column dt bigint")
    spoil(stack, "alter table landing.landing_weather drop column snow")
    spoil(stack, "drop table landing.tested")
    assert stack.transform()["full_refresh"] is True
    assert stack.query("select count(*) as n, sum(id) as ids from stg_weather") == [{"n": 30, "ids": 465}]
    tell(stack, told[30:])
    assert stack.transform()["full_refresh"] is False
    assert stack.query("select sum(observations) as n from weather_daily") == [{"n": 60}]


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


def test_killed_anywhere_a_build_leaves_a_whole_file_and_the_next_goes_on(stack: Stack, tmp_path: Path) -> None:
    told = everything()[:200]
    tell(stack, told[:100])
    took = -time.monotonic()
    stack.transform()
    took += time.monotonic()
    stop, chance = tmp_path / "stop", random.Random(5)  # noqa: S311 - moments, no secrets
    reader = subprocess.Popen(
        [str(stack.python), "-c", READER, str(stack.published), str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(KILLS):
            tell(stack, [told[100 + number]])
            build = subprocess.Popen(
                [
                    str(stack.python),
                    str(SCRIPTS / "transform.py"),
                    "--data",
                    str(stack.data),
                    "--profiles",
                    str(stack.data),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **stack.server.environment(stack.database, "dbt", "dbt")},
            )
            time.sleep(chance.uniform(0.2, took))
            os.killpg(build.pid, signal.SIGKILL)
            build.wait()
    finally:
        report = stack.transform()
        stop.touch()
        lines, complaints = reader.communicate(timeout=60)
    assert reader.returncode == 0, complaints
    assert report["status"] == "success"
    assert len(lines.splitlines()) > 10 * KILLS
    wanted = 100 + KILLS
    assert stack.query("select count(*) as n, count(distinct id) as ids from stg_weather") == [
        {"n": wanted, "ids": wanted}
    ]
    assert stack.query("select sum(observations) as n from weather_daily") == [{"n": wanted}]
    assert {path.name for path in stack.data.glob("published*")} == {"published.duckdb", "published.spare"}


def test_units_of_every_field(stack: Stack) -> None:
    """The same observation in all three units comes out the same."""
    windy = next(one for one in load()["EWR"] if all(one.number(name) for name in ("wind_gust", "precip", "pressure")))
    with stack.server.connect(stack.database, "analytics", "analytics") as connection:
        for units in ("imperial", "metric", "standard"):
            connection.execute(
                "insert into raw.weather_observations (city, units, data) values (%s, %s, %s)",
                (units, units, json.dumps(answer(PLACES[0], windy, units))),
            )
        connection.execute("insert into raw.ingestion_starts values (gen_random_uuid(), now())")
    stack.transform()
    rows = stack.table("stg_weather").set_index("city").drop(columns=["id", "ingested_at"])
    imperial = rows.loc["imperial"]
    assert imperial["wind_gust_mph"] == pytest.approx(windy.number("wind_gust"), abs=0.01)
    for units in ("metric", "standard"):
        for column, value in rows.loc[units].items():
            assert value == (
                pytest.approx(imperial[column], abs=0.02) if isinstance(value, float) else imperial[column]
            ), (units, column)
    assert rows.loc["imperial"].notna().sum() == len(rows.columns), "every column has a value here"
    runs = stack.query("select outcome, finished_at from pipeline_runs")
    assert runs == [{"outcome": "cut off", "finished_at": None}]
