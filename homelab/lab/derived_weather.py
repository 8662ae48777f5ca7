"""Cities without observations of their own: plausible weather, derived from the recorded one.

OpenWeather knows every city, the data set only three. Any other city gets the observations of one of the three
stations, at the same local hour of another day, with temperatures for its latitude, and its seasons reversed in the
southern hemisphere. A city that is named without coordinates gets some, from its name. The same request always gives
the same answer. These values are made up, not observed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import timedelta

from homelab.lab.observations import PLACES, Observation, Place

_FIRST_ID = 10_000  # few cities of OpenWeather's list have a lower id
_HALF_A_YEAR = 182 * 24  # hours
_STATION_OFFSET = -5  # hours: New York's time without daylight saving time
_MEAN, _MEAN_LATITUDE = 55.0, 40.7  # °F of the data set, and degrees
_TROPICAL = 26.0  # °F by which the equator is warmer


def derive_place(query: Mapping[str, str]) -> Place | None:
    """Return the place that a request names by id, coordinates or name; None if OpenWeather would know none.

    A low id, and a name with a country code that ISO 3166 keeps free, such as `XX`, name none.
    """
    if text := query.get("id"):
        number = int(text) if text.isdecimal() else 0
        return _place(f"City {number}", text, number) if number >= _FIRST_ID else None
    if "lat" in query:
        latitude, longitude = float(query["lat"]), float(query["lon"])
        name = f"{latitude:.2f}, {longitude:.2f}"
        return _place(name, name, coordinates=(latitude, longitude))
    name, *rest = (part.strip() for part in query["q"].split(","))
    country = rest[-1].upper() if rest else ""
    if country.startswith("X") or country in ("AA", "ZZ"):
        return None
    return _place(name, f"{name},{country}".lower(), country=country)


def _place(
    name: str, key: str, number: int = 0, country: str = "", coordinates: tuple[float, float] | None = None
) -> Place:
    seed = _seed(key)
    # Inhabited latitudes, north of the equator.
    latitude, longitude = coordinates or (20 + seed % 4000 / 100, seed // 4000 % 36000 / 100 - 180)
    return Place(
        PLACES[seed % len(PLACES)].station,
        name,
        number or 100_000_000 + seed % 900_000_000,
        round(latitude, 4),
        round(longitude, 4),
        country,
    )


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def derive_observation(place: Place, rows: Sequence[Observation], index: int) -> Observation:
    """Return the derived observation of a place at the time of the row `index` of its station."""
    offset = round(place.longitude / 15)  # hours
    local = rows[index].time + timedelta(hours=offset)
    days = _seed(place.name) % 20 * 24 + (_HALF_A_YEAR if place.latitude < 0 else 0)
    other = rows[(index + days + offset - _STATION_OFFSET) % len(rows)].row
    time = {"year": local.year, "month": local.month, "day": local.day, "hour": local.hour}
    temperatures = {column: _temperature(other[column], abs(place.latitude)) for column in ("temp", "dewp")}
    stamp = {"time_hour": rows[index].row["time_hour"]}
    return Observation({**other, **temperatures, **{name: str(value) for name, value in time.items()}, **stamp})


def _temperature(text: str, latitude: float) -> str:
    """Return a temperature of the data set for another latitude: warmer and steadier in the tropics, else colder."""
    if text in ("NA", ""):
        return text
    difference = float(text) - _MEAN
    if latitude >= _MEAN_LATITUDE:
        return str(round(_MEAN + difference - 1.1 * (latitude - _MEAN_LATITUDE), 2))
    share = latitude / _MEAN_LATITUDE
    return str(round(_MEAN + _TROPICAL * (1 - share) + difference * (0.4 + 0.6 * share), 2))
