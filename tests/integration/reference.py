"""The marts' definitions in plain Python, independent of the SQL: slow, and easy to check by reading."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

HOUR, QUARTER = 3600, 900
ENOUGH = 18  # hours of a day
INACTIVE = 7 * 24 * HOUR
FIRST = int(datetime(1979, 1, 1, tzinfo=UTC).timestamp())
RANGES = {  # °F and mph
    "temperature_f": (-130, 140),
    "humidity_pct": (0, 100),
    "pressure_hpa": (850, 1090),
    "wind_speed_mph": (0, 260),
    "wind_direction_deg": (0, 360),
}
Values = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A raw row, in imperial units."""

    id: int
    city: str
    revision: int
    data: dict[str, Any]

    @property
    def time(self) -> int:
        """The time of the observation."""
        return int(self.data.get("dt") or 0)


@dataclass(frozen=True)
class Exclusion:
    """Observations of a city (None: of all) that are ignored."""

    city: str | None
    first: int
    until: int


@dataclass(frozen=True)
class Reading:
    """A reading of rain or snow: an amount over a window of hours before it."""

    time: int
    amount: float
    hours: int


@dataclass(frozen=True)
class City:
    """The observations of a city that count, in order of time."""

    rows: Sequence[Row]
    zone: str | None = None  # IANA; days are UTC without one

    def day_of(self, time: int) -> str:
        """Return the day that a time belongs to."""
        return datetime.fromtimestamp(time, ZoneInfo(self.zone) if self.zone else UTC).strftime("%Y-%m-%d")


def counted(rows: Sequence[Row], exclusions: Sequence[Exclusion], zone: str | None = None) -> dict[str, City]:
    """Return the newest revision of each observation that is not excluded, by city."""
    newest: dict[tuple[str, int], Row] = {}
    for row in sorted(rows, key=lambda row: (row.revision, row.id)):
        newest[row.city, row.time] = row
    found: dict[str, list[Row]] = defaultdict(list)
    for (city, time), row in sorted(newest.items()):
        excluded = any(each.city in (None, city) and each.first <= time < each.until for each in exclusions)
        if time > FIRST and not excluded:
            found[city].append(row)
    return {city: City(rows, zone) for city, rows in found.items()}


def measured(row: Row) -> Values:
    """Return the values in staging's units; an implausible one is None."""
    main, wind = row.data.get("main", {}), row.data.get("wind", {})
    values = {
        "temperature_f": main.get("temp"),
        "humidity_pct": main.get("humidity"),
        "pressure_hpa": main.get("pressure"),
        "wind_speed_mph": wind.get("speed"),
        "wind_direction_deg": wind.get("deg"),
    }
    return {
        name: value if value is not None and RANGES[name][0] <= value <= RANGES[name][1] else None
        for name, value in values.items()
    }


def issues(city: City) -> set[tuple[int, str]]:
    """Return the time and column of each implausible value."""
    found = set()
    for row in city.rows:
        main, wind = row.data.get("main", {}), row.data.get("wind", {})
        for name, value in (
            ("temperature_f", main.get("temp")),
            ("humidity_pct", main.get("humidity")),
            ("pressure_hpa", main.get("pressure")),
            ("wind_speed_mph", wind.get("speed")),
            ("wind_direction_deg", wind.get("deg")),
        ):
            if value is not None and measured(row)[name] is None:
                found.add((row.time, name))
        for gauge in ("rain", "snow"):
            amount, hours = _amount(row, gauge)
            if not hours or (amount is not None and not 0 <= amount <= 320 * hours):
                found.add((row.time, f"{gauge}_mm"))
    return found


def _amount(row: Row, gauge: str) -> tuple[float | None, int]:
    """Return the amount and the hours of its window; 0 hours if the window is unknown."""
    if gauge not in row.data:
        return 0.0, 1
    reported = row.data[gauge]
    if reported is None:
        return None, 1
    for key, hours in (("1h", 1), ("3h", 3)):
        if key in reported:
            return reported[key], hours
    return (None, 0) if reported else (0.0, 1)


def readings(city: City, gauge: str) -> list[Reading]:
    """Return the readings with a known amount."""
    found = []
    for row in city.rows:
        amount, hours = _amount(row, gauge)
        if amount is not None and 0 <= amount <= 320 * hours:
            found.append(Reading(row.time, amount, hours))
    return found


def precipitation(city: City, gauge: str) -> tuple[dict[int, list[float]], dict[str, list[float]]]:
    """Return amount (mm) and covered time (h) by hour and by day.

    Each interval is cut at every quarter of an hour: hours and days of all zones begin at one.
    """
    hours: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    days: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    previous = -math.inf
    for reading in readings(city, gauge):
        begin = int(max(previous, reading.time - reading.hours * HOUR))
        while begin < reading.time:
            end = min(reading.time, (begin // QUARTER + 1) * QUARTER)
            for sums in (hours[begin // HOUR * HOUR], days[city.day_of(begin)]):
                sums[0] += reading.amount * (end - begin) / (reading.hours * HOUR)
                sums[1] += (end - begin) / HOUR
            begin = end
        previous = reading.time
    return hours, days


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def dew_point(row: Row) -> float | None:
    """Return the dew point in °F."""
    values = measured(row)
    if values["temperature_f"] is None or not values["humidity_pct"]:
        return None
    celsius = (values["temperature_f"] - 32) * 5 / 9
    gamma = math.log(values["humidity_pct"] / 100) + 17.625 * celsius / (243.04 + celsius)
    return 243.04 * gamma / (17.625 - gamma) * 9 / 5 + 32


def vector(rows: Sequence[Row]) -> complex | None:
    """Return the mean unit vector of the wind's direction, without calm."""
    directions = [
        math.radians(values["wind_direction_deg"])
        for values in map(measured, rows)
        if values["wind_direction_deg"] is not None and values["wind_speed_mph"] != 0
    ]
    if not directions:
        return None
    return sum(complex(math.sin(each), math.cos(each)) for each in directions) / len(directions)


def direction(vectors: Sequence[complex | None]) -> float | None:
    """Return the direction of the mean of vectors."""
    known = [each for each in vectors if each is not None]
    total = sum(known) / len(known) if known else 0
    return math.degrees(math.atan2(total.real, total.imag)) % 360 if abs(total) > 1e-6 else None


def _sums(amounts: Sequence[float], gauge: str) -> Values:
    return {f"{gauge}_mm": round(amounts[0], 2) if amounts[1] else None, f"{gauge}_covered_h": round(amounts[1], 4)}


def hourly(city: City) -> dict[int, Values]:
    """Return the rows of weather_hourly by the start of the hour."""
    by_hour: dict[int, list[Row]] = defaultdict(list)
    for row in city.rows:
        by_hour[row.time // HOUR * HOUR].append(row)
    rain, snow = precipitation(city, "rain")[0], precipitation(city, "snow")[0]
    found = {}
    for hour in sorted(
        set(by_hour) | {hour for sums in (rain, snow) for hour, each in sums.items() if round(each[0], 2)}
    ):
        rows = by_hour.get(hour, [])
        values = [measured(row) for row in rows]
        found[hour] = {
            "observations": len(rows),
            "temperature_mean_f": mean([each["temperature_f"] for each in values]),
            "dew_point_mean_f": mean([dew_point(row) for row in rows]),
            "wind_speed_mean_mph": mean([each["wind_speed_mph"] for each in values]),
            "wind_direction_mean_deg": direction([vector(rows)]),
            **_sums(rain.get(hour, [0, 0]), "rain"),
            **_sums(snow.get(hour, [0, 0]), "snow"),
        }
    return found


def daily(city: City) -> dict[str, Values]:
    """Return the rows of weather_daily by day."""
    by_day: dict[str, dict[int, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in city.rows:
        by_day[city.day_of(row.time)][row.time // HOUR].append(row)
    rain, snow = precipitation(city, "rain")[1], precipitation(city, "snow")[1]
    found = {}
    for day in sorted(set(by_day) | {day for sums in (rain, snow) for day, each in sums.items() if round(each[0], 2)}):
        hours = list(by_day[day].values())
        temperatures = [
            value for rows in hours for row in rows if (value := measured(row)["temperature_f"]) is not None
        ]
        found[day] = {
            "observations": sum(map(len, hours)),
            "temperature_min_f": min(temperatures, default=None),
            "temperature_max_f": max(temperatures, default=None),
            "temperature_mean_f": mean([mean([measured(row)["temperature_f"] for row in rows]) for rows in hours]),
            "dew_point_mean_f": mean([mean([dew_point(row) for row in rows]) for rows in hours]),
            "wind_speed_mean_mph": mean([mean([measured(row)["wind_speed_mph"] for row in rows]) for rows in hours]),
            "wind_direction_mean_deg": direction([vector(rows) for rows in hours]),
            "hours_observed": len(hours),
            "temperature_hours_observed": hours_with(hours, "temperature_f"),
            "wind_hours_observed": hours_with(hours, "wind_speed_mph"),
            "is_observed_enough": len(hours) >= ENOUGH,
            **_sums(rain.get(day, [0, 0]), "rain"),
            **_sums(snow.get(day, [0, 0]), "snow"),
        }
    return found


def hours_with(hours: Sequence[Sequence[Row]], name: str) -> int:
    """Return the number of hours with a value of this name."""
    return sum(any(measured(row)[name] is not None for row in rows) for rows in hours)


def completeness(city: City, schedule: Sequence[int], as_of: int) -> dict[str, tuple[int, int]]:
    """Return the expected and the observed scheduled times by day."""
    observed = sorted({nearest(schedule, row.time) for row in city.rows})
    expected = set()
    for number, time in enumerate(observed):
        position = bisect_left(schedule, time)
        third = schedule[position + 3] if position + 3 < len(schedule) else 0
        until = min(
            max(time + INACTIVE, third), as_of, observed[number + 1] - 1 if number + 1 < len(observed) else as_of
        )
        expected.update(schedule[position : bisect_right(schedule, until)])
    found: dict[str, tuple[int, int]] = {}
    for time in sorted(expected):
        day = city.day_of(time)
        before = found.get(day, (0, 0))
        found[day] = before[0] + 1, before[1] + (time in observed)
    return found


def nearest(schedule: Sequence[int], time: int) -> int:
    """Return the nearest scheduled time; a tie goes to the later one."""
    return min(schedule, key=lambda each: (abs(each - time), -each))


def records(days: dict[str, Values], today: str) -> dict[str, tuple[float, str]]:
    """Return the value and day of the records."""
    found = {}
    for record, column, sign, hours in (
        ("hottest day", "temperature_max_f", -1, "temperature_hours_observed"),
        ("coldest day", "temperature_min_f", 1, "temperature_hours_observed"),
        ("warmest night", "temperature_min_f", -1, "temperature_hours_observed"),
        ("windiest day", "wind_speed_mean_mph", -1, "wind_hours_observed"),
        ("wettest day", "rain_mm", -1, "rain_covered_h"),
    ):
        best: list[tuple[float, str]] = []
        for day, values in days.items():
            value = values[column]
            if value is None or day >= today or values[hours] < ENOUGH or (column == "rain_mm" and not value):
                continue
            # Rounded, as the last digits of a mean depend on the order.
            best.append((sign * round(value, 6), day))
        if best:
            value, day = min(best)
            found[record] = sign * value, day
    return found


def month_to_date(days: dict[str, Values], today: str) -> Values | None:
    """Return the newest month with the same days of earlier years."""
    counts = {day: values for day, values in days.items() if day < today and values["is_observed_enough"]}
    if not counts:
        return None
    through = max(counts)
    known = {day: values for day, values in counts.items() if values["temperature_hours_observed"] >= ENOUGH}
    present = {day: values for day, values in known.items() if through[:8] == day[:8]}
    same = {
        day: [values for other, values in known.items() if other[4:] == day[4:] and other[:4] < day[:4]]
        for day in present
    }
    compared = [day for day in present if same[day]]
    means = [mean([values["temperature_mean_f"] for values in same[day]]) for day in compared]
    return {
        "through": through,
        "days_observed": sum(through[:8] == day[:8] for day in counts),
        "temperature_days_observed": len(present),
        "days_compared": len(compared),
        "days_earlier": sum(len(same[day]) for day in compared),
        "temperature_mean_f": mean([values["temperature_mean_f"] for values in present.values()]),
        "temperature_mean_earlier_f": mean(means),
    }


def places(city: City) -> list[tuple[str | None, int]]:
    """Return the names of the place and the time from which each is valid."""
    rows = [row for row in city.rows if row.data.get("name")] or list(city.rows)
    found: list[tuple[str | None, int]] = []
    for row in rows:
        if not found or found[-1][0] != row.data.get("name"):
            found.append((row.data.get("name"), row.time))
    return found


def hours_between(first: datetime, until: datetime) -> list[int]:
    """Return the full hours from `first` until `until`."""
    start = int(first.timestamp()) // HOUR * HOUR
    return list(range(start, int(until.timestamp()), HOUR))
