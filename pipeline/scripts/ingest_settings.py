"""What the ingestion is asked to do, from the environment.

OPENWEATHER_BASE_URL, OPENWEATHER_API_KEY; OPENWEATHER_UNITS (standard, metric or imperial); OPENWEATHER_RATE_LIMIT
(requests a minute, 60; 0: any number), OPENWEATHER_AT_ONCE (requests side by side, 8), OPENWEATHER_REQUEST_DEADLINE and
OPENWEATHER_DEADLINE (seconds for one request, 10, and for the run, 600); WEATHER_CITIES (a JSON list) or
WEATHER_CITIES_FILE (see cities.py); WEATHER_DATA (the folder for the spool and the last run's summary, `.`) and
WEATHER_SPOOL_MEGABYTES (how much may wait there for Postgres, 256).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cities import CitiesError, of_file, of_text
from openweather import City

UNITS = ("standard", "metric", "imperial")


class ConfigurationError(Exception):
    """The environment does not hold what is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the environment asks for."""

    base_url: str
    api_key: str = field(repr=False)
    units: str
    cities: Sequence[City]
    rate_limit: int  # requests a minute; 0: any number
    at_once: int
    request: float  # seconds
    deadline: float  # seconds
    data: Path
    spool_bytes: int


def configuration(environment: Mapping[str, str]) -> Configuration:
    """Read the environment. Raises ConfigurationError."""
    base_url = _required(environment, "OPENWEATHER_BASE_URL")
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname or address.query:
        raise ConfigurationError("OPENWEATHER_BASE_URL has to look like https://api.openweathermap.org")
    units = environment.get("OPENWEATHER_UNITS", "imperial")
    if units not in UNITS:
        raise ConfigurationError(f"OPENWEATHER_UNITS is {units!r}, but has to be one of {', '.join(UNITS)}")
    return Configuration(
        base_url=base_url,
        api_key=_required(environment, "OPENWEATHER_API_KEY"),
        units=units,
        cities=_cities(environment),
        data=Path(environment.get("WEATHER_DATA", ".")),
        rate_limit=_whole(environment, "OPENWEATHER_RATE_LIMIT", 60, low=0, high=1_000_000),
        at_once=_whole(environment, "OPENWEATHER_AT_ONCE", 8, low=1, high=256),
        request=_seconds(environment, "OPENWEATHER_REQUEST_DEADLINE", 10),
        deadline=_seconds(environment, "OPENWEATHER_DEADLINE", 600),
        spool_bytes=_whole(environment, "WEATHER_SPOOL_MEGABYTES", 256, low=1, high=1 << 20) << 20,
    )


def _cities(environment: Mapping[str, str]) -> Sequence[City]:
    file = environment.get("WEATHER_CITIES_FILE", "").strip()
    try:
        return of_file(Path(file)) if file else of_text(_required(environment, "WEATHER_CITIES"), "WEATHER_CITIES")
    except CitiesError as error:
        raise ConfigurationError(str(error)) from None


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{name} is not set")
    return value


def _whole(environment: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    text = environment.get(name, str(default)).strip()
    if not text.isdecimal() or not low <= int(text) <= high:
        raise ConfigurationError(f"{name} has to be a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(environment.get(name, default))
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} has to be a number of seconds")
    return seconds
