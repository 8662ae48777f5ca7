"""The ingestion's settings, read from the environment variables that weather_contract.json describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from broker_access import Access
from cities import CitiesError, parse_cities, read_cities
from openweather import City
from validation import parse_decimal, parse_whole

UNITS = ("standard", "metric", "imperial")
DAYS = ("utc", "local")
DESTINATIONS = ("postgres", "broker")
DEFAULT_UNITS = "imperial"
DEFAULT_SCHEDULE = "@hourly"


class SettingsError(Exception):
    """An environment variable is missing or invalid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one run."""

    base_url: str
    api_key: str = field(repr=False)
    units: str
    cities: Sequence[City]
    rate_limit: int  # requests per minute; 0: unlimited
    concurrency: int
    request_deadline: float  # seconds
    run_deadline: float  # seconds
    data: Path
    spool_bytes: int
    schedule: str
    broker: Access | None = None  # None: PostgreSQL
    broker_wait: float = 10  # seconds for the consumer at the end of a run


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the environment. Raises SettingsError."""
    base_url = _required(environment, "OPENWEATHER_BASE_URL")
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname or address.query:
        raise SettingsError("OPENWEATHER_BASE_URL must look like https://api.openweathermap.org")
    units = environment.get("OPENWEATHER_UNITS", DEFAULT_UNITS)
    if units not in UNITS:
        raise SettingsError(f"OPENWEATHER_UNITS must be one of {', '.join(UNITS)}, not {units!r}")
    if environment.get("WEATHER_DAYS", "utc") not in DAYS:  # the models read it, hours later
        raise SettingsError(f"WEATHER_DAYS must be one of {', '.join(DAYS)}, not {environment['WEATHER_DAYS']!r}")
    return Settings(
        base_url=base_url,
        api_key=_required(environment, "OPENWEATHER_API_KEY"),
        units=units,
        cities=_cities(environment),
        data=Path(environment.get("WEATHER_DATA", ".")),
        rate_limit=read_integer(environment, "OPENWEATHER_RATE_LIMIT", 60, low=0, high=1_000_000),
        concurrency=read_integer(environment, "OPENWEATHER_CONCURRENCY", 8, low=1, high=256),
        request_deadline=_seconds(environment, "OPENWEATHER_REQUEST_DEADLINE", 10),
        run_deadline=_seconds(environment, "OPENWEATHER_DEADLINE", 600),
        spool_bytes=read_integer(environment, "WEATHER_SPOOL_MEGABYTES", 256, low=1, high=1 << 20) << 20,
        schedule=environment.get("WEATHER_SCHEDULE", "").strip() or DEFAULT_SCHEDULE,
        broker=_broker(environment),
        broker_wait=_seconds(environment, "WEATHER_BROKER_WAIT", 10),
    )


def _broker(environment: Mapping[str, str]) -> Access | None:
    destination = environment.get("WEATHER_TO", "postgres")
    if destination not in DESTINATIONS:
        raise SettingsError(f"WEATHER_TO must be one of {', '.join(DESTINATIONS)}, not {destination!r}")
    try:
        return Access.read(environment) if destination == "broker" else None
    except KeyError as error:
        raise SettingsError(f"{error.args[0]} is not set") from None


def configured_cities(environment: Mapping[str, str]) -> Sequence[City]:
    """Return the configured cities; none if the environment names none. Raises SettingsError."""
    named = any(environment.get(name, "").strip() for name in ("WEATHER_CITIES", "WEATHER_CITIES_FILE"))
    return _cities(environment) if named else ()


def _cities(environment: Mapping[str, str]) -> Sequence[City]:
    file = environment.get("WEATHER_CITIES_FILE", "").strip()
    try:
        if file:
            return read_cities(Path(file))
        return parse_cities(_required(environment, "WEATHER_CITIES"), "WEATHER_CITIES")
    except CitiesError as error:
        raise SettingsError(str(error)) from None


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise SettingsError(f"{name} is not set")
    return value


def read_integer(environment: Mapping[str, str], name: str, default: int | None, *, low: int, high: int) -> int:
    """Return the variable `name`, which may be missing only with a default. Raises SettingsError."""
    text = environment.get(name, "" if default is None else str(default)).strip()
    try:
        number = parse_whole(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise SettingsError(f"{name} must be an integer from {low} to {high}, not {text[:40]!r}")
    return number


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = parse_decimal(environment.get(name, str(default)).strip())
    except ValueError:
        seconds = 0
    if seconds <= 0:
        raise SettingsError(f"{name} must be a number of seconds")
    return seconds
