"""The marts' numbers: the cases of wrong numbers, and random histories compared with a reference in plain Python.

HOMELAB_HISTORIES is the number of random histories, 20 by default; HOMELAB_SEED makes others; HOMELAB_KILLS is the
number of killed builds before each of their builds.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration import reference
from tests.integration.reference import HOUR, Exclusion, Row
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import PROJECT

HISTORIES, SEED = int(os.environ.get("HOMELAB_HISTORIES", "20")), int(os.environ.get("HOMELAB_SEED", "1"))
KILLS = int(os.environ.get("HOMELAB_KILLS", "1"))  # before each of the histories' builds
pytestmark = pytest.mark.timeout(300 + 10 * HISTORIES)
Connection = psycopg.Connection[Any]


def at(text: str) -> int:
    """Return the seconds of a time such as `2026-03-28 05:59` in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def moment(time: int) -> str:
    """Return a time as the published tables' JSON has it."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def answer(time: int, **parts: Any) -> dict[str, Any]:
    """Return a response with some weather."""
    return {"dt": time, "main": {"temp": 50.0, "humidity": 60}, "wind": {"speed": 5, "deg": 200}, **parts}


def insert(
    connection: Connection, city: str, data: dict[str, Any], *, revision: int = 0, ingested_at: datetime | None = None
) -> Row:
    """Insert a raw row."""
    found = connection.execute(
        "insert into raw.weather_observations (city, units, data, revision, ingested_at) "
        "values (%s, 'imperial', %s, %s, coalesce(%s, now())) returning id",
        (city, json.dumps(data), revision, ingested_at),
    ).fetchone()
    assert found
    return Row(found[0], city, revision, data)


def as_ingestion(stack: Stack) -> Connection:
    """Connect with the ingestion's role."""
    connection: Connection = stack.server.connect(stack.database, "analytics", "analytics")
    return connection


def administrator(stack: Stack) -> Connection:
    """Connect as the owner of the database."""
    connection: Connection = stack.server.connect(stack.database)
    return connection


def exclude(connection: Connection, city: str | None, first: int, until: int) -> int:
    """Exclude observations; return the number of the exclusion."""
    found = connection.execute(
        "insert into raw.exclusion_entries (city, first, until, reason, excluded_by) "
        "values (%s, to_timestamp(%s), to_timestamp(%s), 'a test', 'me') returning id",
        (city, first, until),
    ).fetchone()
    assert found
    number: int = found[0]
    return number


def revoke(connection: Connection, number: int) -> None:
    """Revoke an exclusion."""
    connection.execute(
        "insert into raw.exclusion_entries (revokes, reason, excluded_by) values (%s, 'a test', 'me')", (number,)
    )


RAIN = {
    "windows overlap": ([("05:59", {"1h": 2.0}), ("06:01", {"1h": 2.0})], 2.07),
    "windows overlap for a minute": ([("05:01", {"1h": 3.0}), ("05:59", {"1h": 2.0})], 4.93),
    "a hole": ([("01:00", {"1h": 2.0}), ("09:00", {"1h": 2.0})], 4.0),
    "an unknown amount": ([("05:00", {"1h": 2.0}), ("05:30", {"1h": None}), ("06:00", {"1h": 2.0})], 4.0),
    "an implausible amount": ([("05:00", {"1h": 2.0}), ("05:30", {"1h": -0.1}), ("06:00", {"1h": 2.0})], 4.0),
    "three hours": ([("02:00", {"1h": 1.0}), ("03:00", {"3h": 6.0})], 3.0),
    "three hours alone": ([("03:00", {"3h": 6.0})], 6.0),
    "one hour goes before three": ([("03:00", {"1h": 1.0, "3h": 6.0})], 1.0),
    "another window next to a known one": ([("03:00", {"1h": 1.0, "24h": 6.0})], 1.0),
    "another window": ([("03:00", {"24h": 6.0})], None),
    "another window between": ([("05:00", {"1h": 2.0}), ("06:00", {"24h": 9.0}), ("07:00", {"3h": 3.0})], 4.0),
    "an empty section": ([("03:00", {})], 0.0),
    "a null section": ([("03:00", None)], None),
}


COVERED = {"another window": 0, "another window between": 3, "an empty section": 1, "a null section": 0}


def test_rain_is_summed_by_the_intervals_that_readings_cover(stack: Stack) -> None:
    day = "2026-03-10"
    with as_ingestion(stack) as connection:
        for name, (readings, _) in RAIN.items():
            for clock, rain in readings:
                insert(connection, name, answer(at(f"{day} {clock}"), rain=rain))
        insert(connection, "corrected", answer(at(f"{day} 05:00"), rain={"1h": 2.0}))
        insert(connection, "corrected", answer(at(f"{day} 05:00"), rain={"1h": 3.0}), revision=1)
        for hour in range(24):
            insert(connection, "midnight", answer(at(f"{day} 00:00") + hour * HOUR))
        insert(connection, "midnight", answer(at(f"{day} 00:00") + 24 * HOUR, rain={"1h": 5.0}))
        for clock in ("05:00", "07:00"):
            insert(connection, "late", answer(at(f"{day} {clock}"), rain={"1h": 2.0}))
        insert(connection, "ends at an hour", answer(at(f"{day} 06:00"), snow={"1h": 2.0}))
    stack.build()
    with as_ingestion(stack) as connection:
        insert(connection, "late", answer(at(f"{day} 06:30"), rain={"1h": 1.0}))
    stack.build()
    found = {row["city"]: row for row in stack.query(f"from weather_daily where observation_date = '{day}'")}
    wanted = {name: amount for name, (_, amount) in RAIN.items()}
    wanted |= {"corrected": 3.0, "midnight": 5.0, "late": 4.0}
    assert {name: found[name]["rain_mm"] for name in wanted} == wanted
    assert {name: found[name]["rain_covered_h"] for name in (*COVERED, "a hole", "late", "midnight")} == {
        **COVERED,
        "a hole": 2,
        "late": 2.5,
        "midnight": 24,
    }
    assert (found["ends at an hour"]["rain_mm"], found["ends at an hour"]["snow_mm"]) == (0.0, 2.0)
    hours = stack.query("select observation_hour, observations, snow_mm from weather_hourly where snow_mm > 0")
    assert hours == [{"observation_hour": f"{day}T05:00:00+00:00", "observations": 0, "snow_mm": 2.0}]


def test_implausible_value_becomes_null_and_is_listed(stack: Stack) -> None:
    time = at("2026-03-10 05:00")
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(time, main={"temp": -459.67, "humidity": 60}))
        insert(connection, "B", answer(time, rain={"1h": -0.1}, sys={"sunrise": 0, "sunset": 0}))
        insert(connection, "C", answer(time, wind={"speed": 3, "deg": 20, "gust": None}))
        insert(connection, "G", answer(time, rain={"24h": 6.0}, snow={"12h": None, "x": 1}))
        insert(connection, "G", answer(time + HOUR, rain={}, snow={"3h": None}))
        insert(connection, "G", answer(time + 2 * HOUR, rain=None, snow={"3h": 1.5, "24h": 6.0}))
        insert(connection, "D", answer(0))
        insert(connection, "E", {"dt": None, "main": {}})
        insert(
            connection, "F", answer(time, main={"temp": 50, "humidity": 0}, wind={"speed": -1, "deg": 361, "gust": 999})
        )
    report = stack.build()
    assert (report["status"], report["tests_warned"], report["problems"]) == ("success", 0, [])
    found = stack.query("select city, column_name, value from observation_issues order by all")
    assert [(row["city"], row["column_name"], row["value"]) for row in found] == [
        ("A", "temperature_f", -459.67),
        ("B", "rain_mm", -0.1),
        ("D", "observation_timestamp", None),
        ("E", "observation_timestamp", None),
        ("F", "wind_direction_deg", 361),
        ("F", "wind_gust_mph", 999),
        ("F", "wind_speed_mph", -1),
        ("G", "rain_mm", None),
        ("G", "snow_mm", None),
    ]
    reasons = stack.query("select distinct reason from observation_issues where city = 'G'")
    assert [row["reason"] for row in reasons] == ["no known window: the response has neither 1h nor 3h"]
    gauges = "select rain_mm, rain_window_h, snow_mm, snow_window_h from stg_weather where city = 'G' order by id"
    assert [tuple(row.values()) for row in stack.query(gauges)] == [
        (None, None, None, None),
        (0, 1, None, 3),
        (None, 1, 1.5, 3),
    ]
    rows = {row["city"]: row for row in stack.query("from stg_weather")}
    assert set(rows) == set("ABCFG")
    assert (rows["A"]["temperature_f"], rows["A"]["dew_point_f"], rows["A"]["humidity_pct"]) == (None, None, 60)
    assert (rows["B"]["rain_mm"], rows["B"]["temperature_f"], rows["B"]["sunrise_at"]) == (None, 50, None)
    assert (rows["C"]["wind_gust_mph"], rows["C"]["wind_speed_mph"]) == (None, 3)
    assert rows["F"]["dew_point_f"] is None
    assert stack.report()["issues"] == 9
    status = json.loads(stack.script("pipeline_status.py", "--database", str(stack.published)).stdout)
    assert (status["published"]["issues"], len(status["issues"])) == (9, 9)

    with as_ingestion(stack) as connection:  # replaced, and excluded
        insert(connection, "A", answer(time), revision=1)
        exclude(connection, "F", time, time + 1)
    stack.build()
    assert {row["city"] for row in stack.query("from observation_issues")} == {"B", "D", "E", "G"}
    assert {row["city"] for row in stack.query("from weather_daily")} == set("ABCG"), "an excluded day has no row"


# Finite values at the limits of a double: the smallest one, one that a hundredth of is zero, the largest ones.
EXTREMES = {"smallest": 5e-324, "almost zero": 1e-323, "largest": 1.7e308, "lowest": -1.7e308}
FIELDS = {  # by section of the response
    "main": ("temp", "feels_like", "humidity", "pressure"),
    "wind": ("speed", "deg", "gust"),
    "clouds": ("all",),
    "rain": ("1h",),
    "snow": ("3h",),
    "coord": ("lat", "lon"),
}
UNITS = ("imperial", "metric", "standard")


def insert_extremes(connection: Connection, day: str = "2026-03-10") -> int:
    """Insert observations with extreme values: each field alone, all fields, and other numbers; return their number."""
    time, inserted = at(f"{day} 05:00"), 0
    for name, value in EXTREMES.items():
        alone = [
            {**answer(time), section: {**answer(time).get(section, {}), field: value}}
            for section, fields in FIELDS.items()
            for field in fields
        ]
        every = answer(time, **{section: dict.fromkeys(fields, value) for section, fields in FIELDS.items()})
        others = {**every, "visibility": value, "timezone": value, "id": value, "weather": [{"id": value}]}
        others["sys"] = {"sunrise": value, "sunset": value}
        for units in UNITS:
            for number, data in enumerate((*alone, every, others)):
                connection.execute(
                    "insert into raw.weather_observations (city, units, data) values (%s, %s, %s)",
                    (f"{name} {units} {number}", units, json.dumps(data)),
                )
                inserted += 1
    return inserted


def test_extreme_values_are_zero_or_implausible(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        insert_extremes(connection)
    report = stack.build()
    assert (report["status"], report["tests_warned"]) == ("success", 1), "the condition code 0 is unknown"
    number = sum(map(len, FIELDS.values()))  # the observation with every field
    rows, days = (
        {row["city"]: row for row in stack.query(f"from {name}")} for name in ("stg_weather", "weather_daily")
    )
    issues = Counter(row["city"] for row in stack.query("from observation_issues"))
    assert rows.keys() == days.keys()
    for units, freezing in (("imperial", 0.0), ("metric", 32.0), ("standard", None)):  # 0 kelvin is implausible
        for name in (f"smallest {units}", f"almost zero {units}"):
            row = rows[f"{name} {number}"]
            for column in ("temperature_f", "feels_like_f"):
                assert row[column] == (None if freezing is None else pytest.approx(freezing)), (name, column)
            for column in ("humidity_pct", "wind_speed_mph", "wind_gust_mph", "rain_mm", "snow_mm", "latitude_deg"):
                assert row[column] == pytest.approx(0), (name, column)
            assert (row["pressure_hpa"], row["dew_point_f"]) == (None, None), name
            assert days[f"{name} 2"]["dew_point_mean_f"] is None, "a hundredth of the humidity is zero"
        for name in (f"largest {units}", f"lowest {units}"):
            row = rows[f"{name} {number + 1}"]
            assert {column for column, value in row.items() if value is not None} == {
                *("id", "city", "ingested_at", "observation_timestamp", "rain_window_h", "snow_window_h", "revision"),
                *("observation_date", "day_zone"),
            }, name
            assert issues[f"{name} {number}"] == number, name


def add_schedule(stack: Stack, schedule: str, valid_from: str) -> None:
    """Record a schedule as the ingestion does."""
    with administrator(stack) as connection:
        connection.execute("insert into raw.schedules values (%s, %s)", (f"{valid_from}+00", schedule))


def completeness(stack: Stack, city: str) -> dict[str, tuple[int, int, int]]:
    """Return a city's expected, observed and missing times by day."""
    found = stack.query(f"from weather_completeness where city = '{city}' order by observation_date")
    return {
        row["observation_date"]: (row["times_expected"], row["times_observed"], row["times_missing"]) for row in found
    }


def test_completeness_counts_scheduled_times(stack: Stack) -> None:
    begin = at("2026-03-28 00:00")
    with as_ingestion(stack) as connection:
        for hour in range(72):
            insert(connection, "hourly", answer(begin + hour * HOUR))
            insert(connection, "early", answer(begin + hour * HOUR - hour % 60))
        for hour in range(69, 72):
            insert(connection, "A", answer(begin + hour * HOUR))
        insert(connection, "ahead", answer(begin + 71 * HOUR + int(23.9 * HOUR)))
        insert(connection, "tie", answer(begin + 30 * 60))
        insert(connection, "tie", answer(begin + 31 * 60))
        insert(connection, "unchanged", answer(begin))
        insert(connection, "unchanged", answer(begin + 2 * HOUR))
    stack.build("--as-of", "2026-03-30 23:30+00:00")
    whole = {f"2026-03-{day}": (24, 24, 0) for day in (28, 29, 30)}
    assert completeness(stack, "hourly") == whole
    assert completeness(stack, "early") == whole
    assert completeness(stack, "A") == {"2026-03-30": (3, 3, 0)}
    assert completeness(stack, "ahead") == {}
    assert completeness(stack, "tie")["2026-03-28"] == (23, 1, 22)
    assert completeness(stack, "unchanged")["2026-03-28"] == (24, 2, 22)


def test_completeness_expects_the_schedule_that_was_in_force(stack: Stack) -> None:
    add_schedule(stack, "@daily", "2026-03-01 00:00")
    add_schedule(stack, "*/5 6-8 * * 1", "2026-03-20 12:00")  # Mondays; every 10 minutes count
    add_schedule(stack, "@hourly", "2026-04-01 12:00")
    with as_ingestion(stack) as connection:
        for hour in range(22, 24):  # backfilled: before the first schedule
            insert(connection, "A", answer(at("2026-02-28 00:00") + hour * HOUR))
        for day in range(20):
            insert(connection, "A", answer(at("2026-03-01 00:00") + day * 24 * HOUR - 300))
        for minute in range(0, 180, 5):
            insert(connection, "A", answer(at("2026-03-23 06:00") + minute * 60))
        for hour in range(13, 24):
            insert(connection, "A", answer(at("2026-04-01 00:00") + hour * HOUR))
    stack.build("--as-of", "2026-04-01 23:30+00:00")
    assert completeness(stack, "A") == {
        "2026-02-28": (2, 2, 0),
        **{f"2026-03-{day:02}": (1, 1, 0) for day in range(1, 21)},
        "2026-03-23": (18, 18, 0),
        "2026-03-30": (18, 0, 18),
        "2026-04-01": (11, 11, 0),
    }


def test_city_is_inactive_after_a_week_also_in_the_middle(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for time in ("2026-03-01 12:00", "2026-03-20 12:00"):
            insert(connection, "A", answer(at(time)))
    stack.build("--as-of", "2026-03-20 12:30+00:00")
    found = completeness(stack, "A")
    assert sum(expected for expected, _, _ in found.values()) == 1 + 7 * 24 + 1
    assert list(found)[-2:] == ["2026-03-08", "2026-03-20"]


def test_means_are_means_of_hours_and_directions_of_vectors(stack: Stack) -> None:
    begin = at("2026-03-10 00:00")
    with as_ingestion(stack) as connection:
        for hour in range(24):
            insert(connection, "often", answer(begin + hour * HOUR, main={"temp": 32}))
        for minute in range(1, 60):
            insert(connection, "often", answer(begin + 23 * HOUR + minute * 60, main={"temp": 86}))
        for number, (speed, degrees) in enumerate(((5, 350), (9, 20), (0, 180), (5, None))):
            insert(connection, "wind", answer(begin + number * 600, wind={"speed": speed, "deg": degrees}))
        for number, degrees in enumerate((0, 180)):
            insert(connection, "opposite", answer(begin + number * 600, wind={"speed": 5, "deg": degrees}))
    stack.build()
    days = {row["city"]: row for row in stack.query("from weather_daily")}
    assert days["often"]["temperature_mean_f"] == pytest.approx((23 * 32 + (32 + 59 * 86) / 60) / 24)
    assert days["often"]["temperature_mean_c"] == pytest.approx((days["often"]["temperature_mean_f"] - 32) / 1.8)
    assert days["wind"]["wind_direction_mean_deg"] == pytest.approx(5)
    assert days["wind"]["wind_speed_mean_ms"] == pytest.approx(19 / 4 * 0.44704)
    assert days["opposite"]["wind_direction_mean_deg"] is None
    assert days["wind"]["dew_point_mean_f"] == pytest.approx(36.6, abs=0.1)


def test_records_and_months_compare_only_days_that_were_observed_enough(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for day in ("2025-07-01", "2026-07-01", "2026-07-02"):
            for hour in range(24):
                temperature = 70 + (8 if day > "2026" else 0) + hour % 12
                data = answer(at(f"{day} 00:00") + hour * HOUR, main={"temp": temperature}, rain={"1h": 1.0})
                insert(connection, "A", data)
        insert(connection, "A", answer(at("2026-07-03 00:00"), main={"temp": 80}, rain={"1h": 1.0}))
        insert(connection, "A", answer(at("2026-07-03 14:00"), main={"temp": 62}))
        for hour in range(12):  # the running day
            insert(connection, "A", answer(at("2026-07-04 00:00") + hour * HOUR, main={"temp": 150}))
    stack.build("--as-of", "2026-07-04 12:00+00:00")
    found = {row["record"]: row for row in stack.query("from weather_records")}
    assert (found["warmest night"]["value"], found["warmest night"]["observation_date"]) == (78, "2026-07-01")
    assert (found["coolest day"]["value"], found["coolest day"]["observation_date"]) == (81, "2025-07-01")
    assert (found["hottest day"]["value"], found["hottest day"]["value_metric"]) == (89, pytest.approx(57 / 1.8))
    assert (found["hottest day"]["days_observed"], found["hottest day"]["days_left_out"]) == (3, 1)
    (month,) = stack.query("from weather_month_to_date")
    assert (month["through"], month["days_observed"], month["days_compared"], month["days_earlier"]) == (
        "2026-07-02",
        2,
        1,
        1,
    )
    assert (month["temperature_difference_f"], month["earlier_years"]) == (8, 1)
    assert (month["rain_mm"], month["rain_compared_mm"], month["rain_mean_earlier_mm"]) == (48, 24, 23)


LOST = {  # the section of a response without a temperature
    "absent": {},
    "null": {"temp": None},
    "implausible": {"temp": -459.67},
}


@pytest.mark.parametrize("lost", LOST)
def test_records_and_months_count_a_value_only_if_it_was_observed_enough(stack: Stack, lost: str) -> None:
    """Temperature and wind are known in one hour of each July 2, in 17 hours of July 1, 2025, and in 18 of July 3."""
    with as_ingestion(stack) as connection:
        for year, temperature in ((2025, 60), (2026, 70)):
            for day, known in ((1, 24), (2, 1), (3, 18), (4, 24)):
                if (year, day) == (2025, 1):
                    known = 17
                for hour in range(24):
                    time = at(f"{year}-07-0{day} 00:00") + hour * HOUR
                    data = answer(time, rain={"1h": 1.0}, main={"temp": temperature + day + hour % 12})
                    data["wind"] = {"speed": day, "gust": 2 * day}
                    if hour < 24 - known:
                        data["main"], data["wind"] = LOST[lost], {"speed": -1 if lost == "implausible" else None}
                    elif known == 1:  # the last hour of the day: warm for a night, cool for a day, and windy
                        data |= {"main": {"temp": 50 if year == 2025 else 90}, "wind": {"speed": 99, "gust": 120}}
                    insert(connection, "A", data)
    stack.build("--as-of", "2026-07-05 12:00+00:00")
    days = stack.query("from weather_daily where observation_date between '2026-07-01' and '2026-07-04' order by all")
    found = [tuple(day[name] for name in HOURS_OF_A_DAY[:3]) for day in days]
    assert found == [(24, 24, 24), (24, 1, 1), (24, 18, 18), (24, 24, 24)]
    assert all(day["is_observed_enough"] for day in days)
    records = {row["record"]: row for row in stack.query("from weather_records")}
    assert {name: (row["value"], row["observation_date"]) for name, row in records.items()} == {
        "hottest day": (85, "2026-07-04"),
        "coldest day": (63, "2025-07-03"),
        "warmest night": (74, "2026-07-04"),
        "coolest day": (74, "2025-07-03"),
        "windiest day": (4, "2025-07-04"),
        "strongest wind": (4, "2025-07-04"),
        "strongest gust": (8, "2025-07-04"),
        "wettest day": (24, "2025-07-01"),
    }
    for name, row in records.items():
        counts = (8, 2) if name == "wettest day" else (5, 3)
        assert (row["days_observed"], row["days_left_out"]) == counts, name
    (month,) = stack.query("from weather_month_to_date")
    same(month, MONTH, lost)


MONTH = {
    "through": "2026-07-04",
    "days_observed": 4,
    "temperature_days_observed": 3,  # 1, 3, and 4
    "days_compared": 2,  # 3 and 4
    "days_earlier": 2,
    "earlier_years": 1,
    "temperature_min_f": 71,
    "temperature_min_earlier_f": 63,
    "temperature_max_f": 85,
    "temperature_max_earlier_f": 75,
    "temperature_difference_f": 10.0,
    "cooling_degree_days_compared_f": 28.0,
    "cooling_degree_days_mean_earlier_f": 8.0,
    "rain_days_observed": 4,
    "rain_days_compared": 4,
    "rain_mm": 95.0,
}


def test_cities_are_described_by_their_newest_observation(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 12:00"), name="New Name"))
        insert(connection, "B", answer(at("2026-03-10 12:00"), name="One"))
    stack.build()
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2019-03-10 12:00"), name="Old Name"))
        for clock, name in (("13:00", "Two"), ("14:00", "Three"), ("15:00", "One")):  # between two builds
            insert(connection, "B", answer(at(f"2026-03-10 {clock}"), name=name))
        insert(connection, "B", answer(at("2026-03-10 16:00")))  # the history API returns no name
    stack.build()
    assert {row["city"]: row["place_name"] for row in stack.query("from cities")} == {"A": "New Name", "B": "One"}
    versions = stack.query("select place_name from city_history where city = 'B' order by valid_from")
    assert [row["place_name"] for row in versions] == ["One", "Two", "Three", "One"]


RUNS = {  # asked, stored, unchanged, failed, quarantined, spooled, error
    "success": (2, 1, 1, 0, 0, 0, None),
    "partial": (2, 1, 0, 1, 0, 0, None),
    "failed": (2, 0, 0, 2, 0, 0, None),
    "spooled": (2, 0, 0, 0, 0, 2, None),
}


def test_runs_are_failed_if_nothing_was_stored_and_spooled_if_everything_waits(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for number, (asked, stored, unchanged, failed, quarantined, spooled, error) in enumerate(RUNS.values()):
            started = datetime.now(UTC) - timedelta(days=70 - 20 * number)
            run = connection.execute(
                "insert into raw.ingestion_starts values (gen_random_uuid(), %s) returning run", (started,)
            ).fetchone()
            assert run
            connection.execute(
                "insert into raw.ingestion_ends values (%s, %s, %s, %s, %s, %s, %s, %s, 0, 0, %s)",
                (run[0], started, asked, stored, unchanged, failed, quarantined, spooled, error),
            )
    stack.build()
    outcomes = [row["outcome"] for row in stack.query("from pipeline_runs order by started_at")]
    assert outcomes == list(RUNS)
    with administrator(stack) as connection:
        connection.execute("insert into upkeep.retention (months) values (1)")
        connection.execute("select upkeep.partitions()")
        assert connection.execute("select count(*) from raw.ingestion_runs").fetchone() in ((2,), (3,))
    for options in ((), ("--full-refresh",)):
        stack.build(*options)
        assert [row["outcome"] for row in stack.query("from pipeline_runs order by started_at")] == outcomes
    with administrator(stack) as connection:  # on purpose; the oldest run that PostgreSQL has
        connection.execute(
            "delete from raw.ingestion_starts where started = (select min(started) from raw.ingestion_starts)"
        )
    for options in ((), ("--full-refresh",)):
        stack.build(*options)
        assert len(stack.query("from pipeline_runs")) == 3, "dropped runs stay, the deleted one disappears"


def days_of(stack: Stack) -> list[tuple[str, str, int]]:
    """Return the days with their observations."""
    found = stack.query("select city, observation_date, observations from weather_daily order by all")
    return [(row["city"], row["observation_date"], row["observations"]) for row in found]


def test_rows_land_whatever_the_clocks_say_and_when_they_commit(stack: Stack) -> None:
    time, now = at("2026-03-10 12:00"), datetime.now(UTC)
    with as_ingestion(stack) as late, late.transaction():
        insert(late, "late", answer(time))
        with as_ingestion(stack) as connection:
            insert(connection, "A", answer(time), ingested_at=now + timedelta(hours=26))
        for number in range(2):
            report = stack.build()
            assert report["held_back"] is not None, "the landing waits for the open transaction"
            assert days_of(stack) == [("A", "2026-03-10", 1)]
            held = stack.report()["held_back"]
            assert (held is None) == (number == 0), "reported if it was open at the previous build"
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(time + 60))
        insert(connection, "A", answer(time + 120), ingested_at=now - timedelta(hours=1))
    report = stack.build()
    assert (report["full_refresh"], report["held_back"], report["months_landed_again"]) == (False, None, [])
    assert days_of(stack) == [("A", "2026-03-10", 3), ("late", "2026-03-10", 1)]
    assert stack.report()["held_back"] is None
    assert stack.query("select count(*) as n, count(distinct id) as ids from landing_weather") == [{"n": 4, "ids": 4}]


def test_deleted_rows_disappear_and_dropped_months_stay(stack: Stack) -> None:
    month = datetime.now(UTC).replace(day=1, hour=12, minute=0)
    last = (month - timedelta(days=15)).replace(day=1)
    older = last - timedelta(days=15)
    with administrator(stack) as connection:
        for name, first, until in (
            ("by_retention", "minvalue", last),
            ("by_hand", f"'{last:%Y-%m-%d} 00:00+00'", month),
        ):
            connection.execute(
                f"create table raw.{name} partition of raw.weather_observations for values from ({first}) "
                f"to ('{until:%Y-%m-%d} 00:00+00')".encode()
            )
        insert(connection, "dropped", answer(at("2026-03-10 12:00")), ingested_at=older)
        insert(connection, "by hand", answer(at("2026-03-10 12:00")), ingested_at=last)
        for city in ("deleted", "kept"):
            insert(connection, city, answer(at("2026-03-10 12:00")))
    stack.build()
    with administrator(stack) as connection:
        connection.execute("insert into upkeep.retention (months) values (1)")
        connection.execute("select upkeep.partitions()")
        assert connection.execute("select to_regclass('raw.by_retention')").fetchone() == (None,)
        connection.execute("drop table raw.by_hand")
        connection.execute("delete from raw.weather_observations where city = 'deleted'")
    report = stack.build()
    assert report["months_landed_again"] == [f"{last:%Y-%m}", f"{month:%Y-%m}"]
    for options in ((), ("--full-refresh",)):
        stack.build(*options)
        assert [city for city, _, _ in days_of(stack)] == ["dropped", "kept"]
    with administrator(stack) as connection:  # restored by hand, with the old transaction's id
        connection.execute(
            "insert into raw.weather_observations (city, data, inserted_xid) select 'again', data, inserted_xid "
            "from raw.weather_observations limit 1"
        )
    assert stack.build()["months_landed_again"] == [f"{month:%Y-%m}"]
    assert [city for city, _, _ in days_of(stack)] == ["again", "dropped", "kept"]


def replace(stack: Stack, city: str, time: int, temperature: float) -> tuple[int, int, int]:
    """Replace an observation with `backfill --replace`; return the numbers of stored, replaced and unchanged ones."""
    file = stack.data / "corrected.jsonl"
    data = answer(time, main={"temp": temperature})
    file.write_text(json.dumps({"city": city, "units": "imperial", "data": data}))
    found = json.loads(stack.script("backfill_file.py", "--replace", str(file)).stdout.splitlines()[-1])
    return found["stored"], found["replaced"], found["unchanged"]


def test_observation_of_a_dropped_month_is_replaced_and_excluded(stack: Stack) -> None:
    months = [datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)]
    for _ in range(2):
        months.insert(0, (months[0] - timedelta(days=1)).replace(day=1))
    time = int(months[0].timestamp()) + HOUR
    with administrator(stack) as connection:
        for month, following in pairwise(months):
            connection.execute(
                f"create table raw.{month:m_%Y_%m} partition of raw.weather_observations "
                f"for values from ('{month:%Y-%m-%d} 00:00+00') to ('{following:%Y-%m-%d} 00:00+00')".encode()
            )
        for revision in range(3):
            data = answer(time, main={"temp": 40.0 + revision})
            insert(connection, "A", data, revision=revision, ingested_at=months[0] + timedelta(hours=2))

    def drop(month: datetime) -> None:
        with administrator(stack) as connection:
            connection.execute(f"drop table raw.{month:m_%Y_%m}".encode())
            connection.execute("insert into raw.dropped_months (month) values (%s)", (month.date(),))

    def mart(*options: str) -> list[tuple[float, int]]:
        stack.build(*options)
        found = stack.query("select temperature_mean_f as mean, observations as n from weather_daily order by all")
        return [(row["mean"], row["n"]) for row in found]

    assert mart() == [(42, 1)]
    drop(months[0])
    assert replace(stack, "A", time, 50.0) == (1, 0, 0)
    assert replace(stack, "A", time, 51.0) == (0, 1, 0)
    assert replace(stack, "A", time, 51.0) == (0, 0, 1)
    with administrator(stack) as connection:  # as if they had been replaced a month ago
        connection.execute(
            "update raw.weather_observations set ingested_at = %s + id * interval '1 second'", (months[1],)
        )
    assert mart() == [(51, 1)]
    drop(months[1])
    assert mart() == [(51, 1)]
    assert replace(stack, "A", time, 60.0) == (1, 0, 0)
    assert mart() == [(60, 1)]
    assert mart("--full-refresh") == [(60, 1)]
    # A later observation begins with 0, as always.
    later = int(months[2].timestamp()) + 3 * 24 * HOUR
    if later < datetime.now(UTC).timestamp():
        assert replace(stack, "A", later, 30.0) == (1, 0, 0)
        with administrator(stack) as connection:
            assert connection.execute(
                "select revision from raw.weather_observations where (data ->> 'dt')::bigint = %s", (later,)
            ).fetchall() == [(0,)]
            connection.execute("delete from raw.weather_observations where (data ->> 'dt')::bigint = %s", (later,))

    with administrator(stack) as connection:
        connection.execute("delete from raw.weather_observations")
        connection.execute("insert into raw.city_settings (city) values ('A')")
    assert mart() == [(51, 1)]
    period = ("--from", f"{months[0]:%Y-%m-%d}", "--to", f"{months[1]:%Y-%m-%d}")
    by = ("--reason", "wrong", "--by", "me")
    for options, error in (
        (("--city", "Unknown", *period), "there is no observation of Unknown in this period"),
        (("--from", f"{months[2]:%Y-%m-%d}", "--to", "2100-01-01"), "there is no observation of any city"),
    ):
        assert error in stack.script("exclusions.py", "count", *options, expect=8).stderr
    found = json.loads(stack.script("exclusions.py", "add", "--city", "A", *period, *by).stdout.splitlines()[-1])
    assert (found["observations"], found["dropped"]) == (0, True)
    assert mart() == []


def test_restored_database_is_landed_again(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for number in range(3):
            insert(connection, "A", answer(at("2026-03-10 12:00") + number * HOUR))
    stack.build()
    changes: Sequence[tuple[str, str]] = (
        ("another cluster", "update landing.source_state set cluster = '1/1/1'"),
        ("an older backup", "update landing.source_state set landed_before = landed_before + 1000000"),
    )
    for name, sql in changes:
        stack.script_of("import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])", sql)
        with administrator(stack) as connection:
            connection.execute(
                "delete from raw.weather_observations where id = (select max(id) from raw.weather_observations)"
            )
        assert stack.build()["full_refresh"] is True, name
    assert days_of(stack) == [("A", "2026-03-10", 1)]
    assert stack.build()["full_refresh"] is False


def test_difference_that_remains_fails_the_build(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 12:00")))
    stack.build()
    before = stack.published.resolve()
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 13:00")))
    # A row that was landed, but does not exist: its month differs, and below the watermark nothing is read again.
    stack.script_of(
        "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])",
        "update landing.raw_counts set rows = rows + 1; "
        "insert into landing.landing_weather by name select * replace (id + 1000 as id) from landing.landing_weather",
    )
    report = stack.build(expect=1)
    assert "homelab pipeline rebuild" in report["problems"][-1]["message"]
    assert stack.published.resolve() == before
    stack.build("--full-refresh")
    assert days_of(stack) == [("A", "2026-03-10", 2)]


ZONES = """
import duckdb, json, sys
found = {}
for zone in ("UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"):
    connection = duckdb.connect(sys.argv[1], read_only=True)
    connection.execute(f"set TimeZone = '{zone}'")
    for schema, name in connection.execute("select table_schema, table_name from information_schema.tables").fetchall():
        columns = connection.execute(f'describe "{schema}"."{name}"').fetchall()
        exact = ", ".join(
            f'epoch_us("{column}")' if kind == "TIMESTAMP WITH TIME ZONE" else f'"{column}"::varchar'
            if "[]" not in kind else f'list_transform("{column}", lambda x: epoch_us(x::timestamptz))::varchar'
            for column, kind, *_ in columns
        )
        rows = connection.execute(f'select {exact} from "{schema}"."{name}" order by all').fetchall()
        found.setdefault(f"{schema}.{name}", []).append(str(rows))
    connection.close()
print(json.dumps({name: len(set(answers)) for name, answers in found.items()}))
"""


def test_every_relation_answers_the_same_in_five_time_zones(stack: Stack) -> None:
    with as_ingestion(stack) as connection:
        for hour in range(72):
            insert(connection, "dst", answer(at("2026-03-28 00:00") + hour * HOUR, rain={"1h": hour % 3}, name="A"))
            insert(connection, "dst", answer(at("2025-10-25 00:00") + hour * HOUR, rain={"1h": hour % 3}, name="B"))
        insert(connection, "dst", answer(at("2026-03-28 00:30"), main={"temp": 999}))
        exclude(connection, "dst", at("2026-03-28 05:00"), at("2026-03-28 06:00"))
    stack.build()
    answers = json.loads(stack.script_of(ZONES, path=str(stack.published)).splitlines()[-1])
    assert len(answers) > 20
    assert {name for name, versions in answers.items() if versions != 1} == set()
    assert completeness(stack, "dst")["2026-03-29"] == (24, 24, 0)


def test_local_days(stack: Stack) -> None:
    begin = at("2026-03-28 00:00")
    with administrator(stack) as connection:
        connection.execute("insert into raw.city_settings values ('Berlin', 'Europe/Berlin'), ('wrong', 'No/Where')")
        for hour in range(72):
            rain = {"1h": hour % 5}
            insert(connection, "Berlin", answer(begin + hour * HOUR, rain=rain, timezone=-36000))
            insert(connection, "offset", answer(begin + hour * HOUR, rain=rain, timezone=20700))
            if hour not in (5, 22, 23, 24, 46, 50):
                offset = 3600 if hour < 25 else 7200  # the response follows daylight saving time
                insert(connection, "changing", answer(begin + hour * HOUR, rain=rain, timezone=offset))
        insert(connection, "wrong", answer(begin))
    as_of = ("--as-of", "2026-03-31 00:30+00:00")
    stack.build(*as_of, WEATHER_DAYS="local")
    rows = [row for row in raw_rows(stack) if row.city != "wrong"]
    with administrator(stack) as connection:
        rows.append(insert(connection, "Berlin", answer(begin + 30 * 60, rain={"3h": 9.0})))
        rows.append(insert(connection, "changing", answer(begin + 22 * HOUR + 300, rain={"3h": 9.0}, timezone=3600)))
    assert stack.build(*as_of, WEATHER_DAYS="local")["full_refresh"] is False
    zones = {"Berlin": "Europe/Berlin", "changing": "Europe/Berlin", "offset": "Asia/Kathmandu"}
    schedule = list(range(begin, begin + 100 * HOUR, HOUR))
    for city, zone in zones.items():
        known = reference.counted(rows, [], zone)[city]
        check_days(stack, known, city)
        wanted = reference.completeness(known, schedule, at("2026-03-31 00:30"))
        assert {day: each[:2] for day, each in completeness(stack, city).items()} == wanted, city
    assert completeness(stack, "Berlin")["2026-03-29"] == (23, 23, 0)
    assert completeness(stack, "changing")["2026-03-29"] == (23, 21, 2)
    found = stack.query(
        "select distinct city, day_zone from weather_completeness where city <> 'changing' order by all"
    )
    assert found == [{"city": "Berlin", "day_zone": "Europe/Berlin"}, {"city": "offset", "day_zone": "+05:45"}]
    assert (
        stack.query("select distinct city, day_zone from weather_daily where city <> 'changing' order by all") == found
    )
    assert stack.query("select city, column_name from observation_issues") == [
        {"city": "wrong", "column_name": "observation_date"}
    ]
    report = stack.build()
    assert report["full_refresh"] is True, "a change of the days builds everything again"


HOURS_OF_A_DAY = (
    *("hours_observed", "temperature_hours_observed", "wind_hours_observed"),
    *("rain_covered_h", "snow_covered_h"),
)
NEW_DAY = at("2026-10-25 00:00")  # at the offset 0; in Berlin the day has 25 hours
LONG_DAYS = {  # offset by the hours since then, and the longest date's hours
    "a date in all offsets": (lambda hour: 14 if hour < 10 else 0 if hour <= 12 else -12, 50),
    "moved to the west at noon": (lambda hour: 2 if hour < 12 else -4, 30),
    "moved to the east at noon": (lambda hour: -4 if hour < 12 else 2, 18),
}


def test_local_days_of_every_possible_length_are_published(stack: Stack) -> None:
    add_schedule(stack, "*/10 * * * *", "2026-10-01 00:00")
    minutes = range(-20 * 60, 40 * 60, 10)
    with administrator(stack) as connection:
        connection.execute("insert into raw.city_settings values ('Berlin', 'Europe/Berlin')")
        for minute in minutes:
            insert(connection, "Berlin", answer(NEW_DAY + minute * 60))
            for name, (offset_at, _) in LONG_DAYS.items():
                insert(connection, name, answer(NEW_DAY + minute * 60, timezone=offset_at(minute / 60) * HOUR))
    stack.build("--as-of", "2026-10-28 00:00+00:00", WEATHER_DAYS="local")
    found = {row["city"]: row for row in stack.query("from weather_daily where observation_date = '2026-10-25'")}
    for name, hours in (("Berlin", 25), *((name, hours) for name, (_, hours) in LONG_DAYS.items())):
        assert {column: found[name][column] for column in HOURS_OF_A_DAY} == dict.fromkeys(HOURS_OF_A_DAY, hours), name
        assert completeness(stack, name)["2026-10-25"] == (6 * hours, 6 * hours, 0), name


@pytest.mark.parametrize(("base", "temperature"), [(120, -129.0), (-100, 139.0)])
def test_degree_days_are_counted_from_each_base(stack: Stack, tmp_path: Path, base: int, temperature: float) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(PROJECT, project)
    settings = project / "dbt_project.yml"
    settings.write_text(settings.read_text().replace("degree_day_base_f: 65", f"degree_day_base_f: {base}"))
    with as_ingestion(stack) as connection:
        insert(connection, "A", answer(at("2026-03-10 12:00"), main={"temp": temperature}))
    assert stack.build("--project", str(project))["status"] == "success"
    (day,) = stack.query("select heating_degree_days_f as heating, cooling_degree_days_f as cooling from weather_daily")
    assert day == {"heating": max(base - temperature, 0), "cooling": max(temperature - base, 0)}


def raw_rows(stack: Stack) -> list[Row]:
    """Return the raw rows."""
    with administrator(stack) as connection:
        found = connection.execute("select id, city, revision, data from raw.weather_observations").fetchall()
    return [Row(*row) for row in found]


def same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: object) -> None:
    """Compare values with a reference."""
    for name, value in wanted.items():
        if name == "wind_direction_mean_deg" and None not in (value, found[name]):
            assert math.cos(math.radians(value - found[name])) == pytest.approx(1), (where, name, found[name], value)
        elif isinstance(value, float):
            tolerance = 0.0101 if name.endswith("_mm") else 1e-6  # rounded to 0.01 mm, on either side of a half
            assert found[name] == pytest.approx(value, rel=1e-9, abs=tolerance), (where, name)
        else:
            assert found[name] == value, (where, name, found[name], value)


def check_days(stack: Stack, city: reference.City, name: str) -> None:
    """Compare a city's days with the reference."""
    days = reference.daily(city)
    found = {row["observation_date"]: row for row in stack.query(f"from weather_daily where city = '{name}'")}
    assert set(found) == set(days), name
    for day, values in days.items():
        same(found[day], values, (name, day))


@dataclass
class History:
    """A random history of several cities: all raw rows and exclusions that PostgreSQL has."""

    stack: Stack
    chance: random.Random
    rows: list[Row] = field(default_factory=list)
    exclusions: dict[int, Exclusion] = field(default_factory=dict)
    now: datetime = datetime(2026, 3, 29, 12, tzinfo=UTC)

    def response(self, time: int) -> dict[str, Any]:
        """Return random weather, with the odd implausible, null or missing value."""
        chance = self.chance
        data = answer(
            time,
            main={"temp": round(chance.uniform(-20, 100), 2), "humidity": chance.choice((0, 30, 60, 100))},
            wind={"speed": chance.choice((0, 3, 7.5)), "deg": chance.choice((0, 90, 200, 350, None))},
            name=chance.choice(("North", "North", "North", "South", None)),
        )
        if chance.random() < 0.05:
            data["main"]["temp"] = chance.choice((-459.67, 999, None))
        for gauge in ("rain", "snow"):
            if chance.random() < 0.5:
                amount = chance.choice((0.5, 1, 2.25, None, -1, 4))
                data[gauge] = {chance.choice(("1h", "1h", "1h", "3h", "24h")): amount}
        return data

    def time(self) -> int:
        """Return a random time of some days, often a full hour, or one that exists already."""
        chance = self.chance
        if self.rows and chance.random() < 0.2:
            return chance.choice(self.rows).time
        hours = int(self.now.timestamp()) // HOUR - chance.choice((1, 3, 24, 24, 24, 400))
        return (hours + chance.randrange(24)) * HOUR + chance.choice((0, 0, 0, 1800, chance.randrange(3600)))

    def clock(self) -> datetime | None:
        """Return the right time, or a wrong one."""
        wrong = self.chance.choice((None, None, None, -400, -26, 26, 800))
        return None if wrong is None else datetime.now(UTC) + timedelta(hours=wrong)

    def insert(self, connection: Connection, city: str) -> list[Row]:
        """Insert rows of a city: new ones, repeated ones, replacements."""
        found = []
        for _ in range(self.chance.randrange(12)):
            data = self.response(self.time())
            own = [row for row in self.rows + found if row.city == city and row.time == data["dt"]]
            revision = max((row.revision for row in own), default=-1) + 1 if self.chance.random() < 0.7 else 0
            found.append(insert(connection, city, data, revision=revision, ingested_at=self.clock()))
        return found

    def change(self, connection: Connection, cities: Sequence[str]) -> None:
        """Exclude, include, and delete some rows."""
        for city in cities:
            if self.chance.random() < 0.3:
                first = self.time()
                exclusion = Exclusion(city, first, first + self.chance.choice((1, HOUR, 30 * HOUR)))
                number = exclude(connection, exclusion.city, exclusion.first, exclusion.until)
                self.exclusions[number] = exclusion
        if self.chance.random() < 0.5:  # of all cities
            first = self.time()
            exclusion = Exclusion(None, first, first + self.chance.choice((1, HOUR, 3 * HOUR)))
            self.exclusions[exclude(connection, exclusion.city, exclusion.first, exclusion.until)] = exclusion
        for number in list(self.exclusions):
            if self.chance.random() < 0.2:
                revoke(connection, number)
                del self.exclusions[number]
        for row in list(self.rows):
            if self.chance.random() < 0.01:
                connection.execute("delete from raw.weather_observations where id = %s", (row.id,))
                self.rows.remove(row)

    def check(self) -> None:
        """Compare all marts with the reference."""
        stack, as_of = self.stack, int(self.now.timestamp())
        today = self.now.strftime("%Y-%m-%d")
        hours, days, expected, issues, places = (
            _by_city(stack.query(f"from {name}"))
            for name in (
                "weather_hourly",
                "weather_daily",
                "weather_completeness",
                "observation_issues",
                "city_history",
            )
        )
        records, months = (
            _by_city(stack.query(f"from {name}")) for name in ("weather_records", "weather_month_to_date")
        )
        cities = reference.counted(self.rows, list(self.exclusions.values()))
        times = [row.time for city in cities.values() for row in city.rows]
        schedule = list(range(min(times) // HOUR * HOUR, max(max(times), as_of) + 3 * HOUR, HOUR))
        assert set(days) == set(cities)
        for name, city in cities.items():
            wanted = reference.hourly(city)
            found = {row["observation_hour"]: row for row in hours[name]}
            assert set(found) == {moment(hour) for hour in wanted}, name
            for hour, values in wanted.items():
                same(found[moment(hour)], values, (name, moment(hour)))
            by_day = reference.daily(city)
            assert {row["observation_date"] for row in days[name]} == set(by_day), name
            for row in days[name]:
                same(row, by_day[row["observation_date"]], (name, row["observation_date"]))
            assert {
                row["observation_date"]: (row["times_expected"], row["times_observed"])
                for row in expected.get(name, [])
            } == reference.completeness(city, schedule, as_of), name
            assert {(at(row["observation_timestamp"][:19]), row["column_name"]) for row in issues.get(name, [])} == (
                reference.issues(city)
            ), name
            assert [
                (row["place_name"], at(row["valid_from"][:19]))
                for row in sorted(places[name], key=lambda row: str(row["valid_from"]))
            ] == reference.places(city), name
            best = reference.records(by_day, today)
            kept = {row["record"]: row for row in records.get(name, [])}
            assert {record for record in kept if record in ("hottest day", "wettest day")} == {
                record for record in best if record in ("hottest day", "wettest day")
            }
            for record, (value, day) in best.items():
                assert (kept[record]["value"], kept[record]["observation_date"]) == (pytest.approx(value), day), name
            month = reference.month_to_date(by_day, today)
            assert (month is None) == (name not in months), name
            if month:
                same(months[name][0], month, name)


def _by_city(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["city"], []).append(row)
    return found


def test_random_histories_equal_the_reference_and_a_rebuild(stack: Stack) -> None:
    """Each city is a history of its own; all of them share the builds, which are killed, or run at the same time."""
    history = History(stack, random.Random(SEED))  # noqa: S311 - not for secrets
    cities = [f"History {number}" for number in range(HISTORIES)]
    with administrator(stack) as connection:
        connection.execute(
            "create table raw.before partition of raw.weather_observations for values from (minvalue) "
            f"to ('{datetime.now(UTC):%Y-%m-01} 00:00+00')".encode()
        )
        for city in cities[::2]:  # a whole time of complete days, for records and months
            for hour in range(60):
                data = history.response(at("2026-03-26 00:00") + hour * HOUR)
                if city in cities[::4] and 24 <= hour < 46:  # the thermometer is lost for most of a day
                    data["main"]["temp"] = None
                if city in cities[::6] and hour < 23:
                    data["wind"] = {"speed": None}
                history.rows.append(insert(connection, city, data))
                history.rows.append(insert(connection, city, history.response(at("2025-03-26 00:00") + hour * HOUR)))
    duration = 5.0  # of a build, for the kills
    for number in range(4):
        with administrator(stack) as connection:
            for city in cities:
                history.rows += history.insert(connection, city)
            history.change(connection, cities)
        with administrator(stack) as late, late.transaction():
            written = [row for city in cities[number::4] for row in history.insert(late, city)]
            stack.build("--as-of", history.now.isoformat())
        history.rows += written  # committed after the build
        history.now += timedelta(hours=history.chance.choice((0, 1, 5)))
        as_of = ("--as-of", history.now.isoformat())
        rebuild = ("--full-refresh",) if number == 2 else ()
        for _ in range(KILLS):
            stack.kill_build(history.chance.uniform(0.2, duration), *as_of, *rebuild)
        started = time.monotonic()
        with ThreadPoolExecutor(2) as threads:  # the second one is at the same time
            builds = [threads.submit(stack.build, *as_of) for _ in range(1 + number % 2)]
            reports = [each.result() for each in builds]
        duration = (time.monotonic() - started) / len(reports)
        for report in reports:
            assert (report["status"], report["tests_warned"]) == ("success", 0)
            assert report["full_refresh"] is False or rebuild
        history.check()
    increments = [stack.query(f"from {name} order by all") for name in ("weather_hourly", "weather_daily")]
    stack.build("--full-refresh", "--as-of", history.now.isoformat())
    history.check()
    rebuilt = [stack.query(f"from {name} order by all") for name in ("weather_hourly", "weather_daily")]
    for before, after in zip(increments, rebuilt, strict=True):
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            same(new, old, (old["city"],))
