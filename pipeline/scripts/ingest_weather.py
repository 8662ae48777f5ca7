"""Ask OpenWeather for each city's current weather and append the answers to raw.weather_observations.

Configuration comes from the environment: OPENWEATHER_BASE_URL, OPENWEATHER_API_KEY, OPENWEATHER_UNITS (standard,
metric or imperial), WEATHER_CITIES (a JSON list of {"name", "id", "latitude", "longitude"}, of which only the name is
required), and libpq's own variables (PGHOST, PGDATABASE, PGUSER, PGPASSWORD, PGPASSFILE …). OPENWEATHER_DEADLINE is
the whole run's limit in seconds (600).

The last line on standard output is a JSON summary. Exit status: 0 all stored, 1 some or all failed, 2 bad
configuration.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psycopg
from openweather import City, Client, FetchError, Patience

UNITS = ("standard", "metric", "imperial")
_AT_ONCE = 4  # requests; a free key may ask 60 times a minute
_CITY_KEYS: dict[str, tuple[type, ...]] = {"name": (str,), "id": (int,), "latitude": (int, float),
                                            "longitude": (int, float)}
Connection = psycopg.Connection[tuple[object, ...]]


class ConfigurationError(Exception):
    """The environment does not hold what is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the environment asks for."""

    base_url: str
    api_key: str = field(repr=False)
    units: str
    cities: Sequence[City]
    deadline: float  # seconds


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one city gave: its observation as it came, or why there is none."""

    city: str
    observation: str | None = None
    error: str = ""


def configuration(environment: Mapping[str, str]) -> Configuration:
    """Read the environment. Raises ConfigurationError."""
    base_url = _required(environment, "OPENWEATHER_BASE_URL")
    address = urlsplit(base_url)
    if address.scheme not in ("http", "https") or not address.hostname or address.query:
        raise ConfigurationError("OPENWEATHER_BASE_URL has to look like https://api.openweathermap.org")
    units = environment.get("OPENWEATHER_UNITS", "imperial")
    if units not in UNITS:
        raise ConfigurationError(f"OPENWEATHER_UNITS is {units!r}, but has to be one of {', '.join(UNITS)}")
    try:
        deadline = float(environment.get("OPENWEATHER_DEADLINE", "600"))
    except ValueError:
        raise ConfigurationError("OPENWEATHER_DEADLINE has to be a number of seconds") from None
    return Configuration(base_url=base_url, api_key=_required(environment, "OPENWEATHER_API_KEY"), units=units,
                         cities=cities(_required(environment, "WEATHER_CITIES")), deadline=deadline)


def cities(text: str) -> list[City]:
    """The cities of a JSON list. Raises ConfigurationError."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"WEATHER_CITIES is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError("WEATHER_CITIES has to be a list of at least one city")
    return [_city(entry) for entry in entries]


def _city(entry: object) -> City:
    if not isinstance(entry, dict) or not entry.get("name") or not entry.keys() <= _CITY_KEYS.keys():
        raise ConfigurationError(f"WEATHER_CITIES: {entry!r} needs a name, and may have only {', '.join(_CITY_KEYS)}")
    for key, value in entry.items():
        if not isinstance(value, _CITY_KEYS[key]) or isinstance(value, bool):
            raise ConfigurationError(f"WEATHER_CITIES: {entry['name']}: {key} cannot be {value!r}")
    if ("latitude" in entry) != ("longitude" in entry):
        raise ConfigurationError(f"WEATHER_CITIES: {entry['name']} has one coordinate, and needs both or none")
    return City(**entry)


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "").strip()
    if not value:
        raise ConfigurationError(f"{name} is not set")
    return value


def fetch(wanted: Configuration) -> list[Fetched]:
    """Ask for every city, some side by side; one that fails does not stop the others."""
    patience = Patience(run=wanted.deadline)
    client = Client(base_url=wanted.base_url, api_key=wanted.api_key, units=wanted.units, patience=patience,
                    until=patience.clock() + patience.run)

    def one(city: City) -> Fetched:
        try:
            return Fetched(city.name, client.current(city))
        except FetchError as error:
            return Fetched(city.name, error=str(error))

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(one, wanted.cities))


def store(connection: Connection, rows: Sequence[Fetched]) -> list[Fetched]:
    """Append the observations; what Postgres refuses comes back as an error of its city. Raises psycopg.Error."""
    try:
        with connection.cursor().copy("copy raw.weather_observations (city, data) from stdin") as copy:
            for row in rows:
                if row.observation is not None:
                    copy.write_row((row.city, row.observation))
    except psycopg.DataError:
        # One value spoils a whole COPY: singly, the others get in.
        with connection.transaction():
            return [_insert(connection, row) for row in rows]
    return list(rows)


def _insert(connection: Connection, row: Fetched) -> Fetched:
    if row.observation is None:
        return row
    try:
        with connection.transaction():
            connection.execute("insert into raw.weather_observations (city, data) values (%s, %s)",
                               (row.city, row.observation))
    except psycopg.DataError as error:
        return Fetched(row.city, error=f"Postgres refuses the answer: {error.diag.message_primary}")
    return row


def main() -> int:
    """Run once; see the top of the file."""
    started = time.monotonic()
    try:
        wanted = configuration(os.environ)
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows: list[Fetched] = []
    problem = None
    try:
        # Connected first: without a place to put them, no observation is asked for.
        with psycopg.connect("", autocommit=True, application_name="ingest_weather") as connection:
            rows = store(connection, fetch(wanted))
    except psycopg.Error as error:
        problem = f"Postgres: {' '.join(str(error).split())}"
        print(f"error: {problem}", file=sys.stderr)
    stored = sum(row.observation is not None for row in rows)
    errors = {row.city: row.error for row in rows if row.error}
    for city, why in errors.items():
        print(f"error: {city}: {why}", file=sys.stderr)
    print(json.dumps({"stored": stored, "failed": len(wanted.cities) - stored, "errors": errors, "problem": problem,
                      "seconds": round(time.monotonic() - started, 3)}, ensure_ascii=False))
    return 0 if stored == len(wanted.cities) else 1


if __name__ == "__main__":
    sys.exit(main())
