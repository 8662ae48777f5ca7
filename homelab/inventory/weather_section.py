"""`pipelines: weather:`, the built-in pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Literal

from homelab.inventory import schedule
from homelab.inventory.declaration import declaration_of
from homelab.inventory.schema_rules import exclusive, together
from homelab.inventory.section import Section
from homelab.inventory.value_types import anchored
from homelab.model import City, Weather
from homelab.model.lake import CLICKHOUSE, LAKE, Lake, RetentionSection
from homelab.model.options import Duration, Option
from homelab.model.urls import HTTP_URL
from homelab.model.weather_settings import ON_DATA, STREAM, Freshness, Stream, timezone_error
from homelab.paths import bundled_path

_RUN = 10  # minutes that the ingestion has for one run
_HOUR = Duration("1h")
_MONTH = 31 * 86400  # seconds
_FREE_RATE, _FREE_MONTH = 60, 1_000_000  # requests a minute and a month
_CITY = Option(
    expected='a name such as "Berlin,DE", or a mapping with name and id or latitude and longitude',
    shorthand="name",
    schema={
        "allOf": [together("latitude", "longitude"), together("longitude", "latitude"), exclusive("id", "latitude")]
    },
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CitiesFile:
    """`cities: {file: …}`; the file is read when it is used."""

    file: Annotated[
        Path,
        Option(
            "File with the cities, up to 200,000.",
            pattern=r"\S(.*\S)?\.(csv|json)",
            expected="a path that ends in .csv or .json",
            examples=("cities.csv",),
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeatherSection(RetentionSection):
    """The keys of `weather:`."""

    target: Annotated[
        Literal["file", "lake", "clickhouse"],
        Option(
            "Where dbt builds: one DuckDB file, DuckLake tables in PostgreSQL and the service `s3`, or the service "
            "`clickhouse`."
        ),
    ] = "file"

    cities: Annotated[
        list[Annotated[City, _CITY]] | CitiesFile,
        Option(
            "Cities to observe: a list, or `{file: …}`.",
            expected='a list such as ["Newark,US", "Berlin,DE"]',
            empty="must name at least one city",
            examples=(["Newark,US", "Berlin,DE"],),
        ),
    ]
    rate_limit: Annotated[
        int, Option("Requests to OpenWeather a minute; 0: unlimited.", low=0, high=1_000_000, unit="requests a minute")
    ] = 60
    units: Annotated[Literal["standard", "metric", "imperial"], Option("Units of the observations.")] = "imperial"
    days: Annotated[
        Literal["utc", "local"],
        Option("Days of the marts: in UTC, or in each city's time zone. A change rebuilds them."),
    ] = "utc"
    to: Annotated[
        Literal["postgres", "broker"],
        Option("Destination of the ingestion: PostgreSQL, or the broker, whose consumer writes to PostgreSQL."),
    ] = "postgres"
    schedule: Annotated[
        str,
        Option(
            "Schedule of the pipeline: a preset, or the five fields of cron. `stream`: a service fetches continuously, "
            "and Airflow builds every hour; `on_data`: the same, but Airflow builds after new rows.",
            expected="a schedule",
            examples=(*schedule.PRESETS, "*/30 * * * *", STREAM, ON_DATA),
            schema={"pattern": anchored(f"{STREAM}|{ON_DATA}|{schedule.PATTERN}")},
        ),
    ] = "@hourly"
    every: Annotated[
        Duration | None,
        Option("With a stream: time between two requests for a city; default 60s.", low=Duration("10s"), high=_HOUR),
    ] = None
    expected_every: Annotated[
        Freshness | None,
        Option("With a stream: longest time between two new rows before they are reported as late; default 30m."),
    ] = None
    build_every: Annotated[
        Duration | None,
        Option("With `on_data`: shortest time between two builds; default 10m.", low=Duration("1m"), high=_HOUR),
    ] = None
    build_rows: Annotated[
        int | None, Option("With `on_data`: new rows that start a build; default 1.", low=1, high=1_000_000)
    ] = None
    api_url: Annotated[str, Option("URL of OpenWeather's API.", pattern=HTTP_URL, expected="an http or https URL")] = (
        "https://api.openweathermap.org"
    )
    api_key_file: Annotated[Path, Option("File with the key of OpenWeather's API, mode 0600.")] = Path(
        ".homelab/openweather-api-key"
    )
    archive_months: Annotated[
        int,
        Option(
            "Whole months of raw observations to keep in PostgreSQL; older ones move to object storage (`s3`). 0: all.",
            low=0,
            high=1200,
        ),
    ] = 0
    path: Annotated[
        Path | None,
        Option(
            "Folder of a copy of the pipeline, as `homelab pipeline copy weather` makes it; default: the built-in one.",
            examples=("pipelines/weather",),
        ),
    ] = None


def weather(section: Section) -> Weather:
    """Read the section; cities with a problem are left out."""
    found: WeatherSection = declaration_of(WeatherSection).build(section)
    cities = found.cities if isinstance(found.cities, list) else []
    _check_cities(section, cities, found.rate_limit)
    stream = _stream(section, found, len(cities))
    if not stream and (error := schedule.error_in(found.schedule)):
        section.problem(error, "schedule")
    return Weather(
        cities=tuple(cities),
        units=found.units,
        schedule=stream.schedule if stream else found.schedule,
        api_url=found.api_url.rstrip("/"),
        api_key_file=found.api_key_file,
        cities_file=found.cities.file if isinstance(found.cities, CitiesFile) else None,
        rate_limit=found.rate_limit,
        days=found.days,
        archive_months=found.archive_months,
        to=found.to,
        folder=found.path or bundled_path("pipelines/weather"),
        lake=Lake(found.snapshot_retention) if found.target == LAKE else None,
        clickhouse=found.target == CLICKHOUSE,
        stream=stream,
    )


def _stream(section: Section, found: WeatherSection, cities: int) -> Stream | None:
    """Return the settings of the stream; None for runs on a schedule."""
    on_data = found.schedule == ON_DATA
    if not on_data:
        for key in ("build_every", "build_rows"):
            if section.has(key):
                section.problem(f"is for `schedule: {ON_DATA}`", key)
    if found.schedule not in (STREAM, ON_DATA):
        for key in ("every", "expected_every"):
            if section.has(key):
                section.problem(f"is for `schedule: {STREAM}` and `schedule: {ON_DATA}`", key)
        return None
    every = found.every or Duration("60s")
    if error := stream_error(cities, every.seconds, found.rate_limit):
        section.problem(error, "every" if section.has("every") else "schedule")
    expected_every = found.expected_every or "30m"
    if every.seconds > Duration(expected_every).seconds:
        error = f"must be at most `expected_every`, {expected_every}: the rows would be late between two requests"
        section.problem(error, "every")
    return Stream(
        every=every,
        expected_every=expected_every,
        build_every=(found.build_every or Duration("10m")) if on_data else None,
        build_rows=found.build_rows or 1,
    )


def stream_error(cities: int, every: float, rate_limit: int) -> str:
    """Return the reason why OpenWeather's limits do not allow a stream with `every` in seconds, or "".

    A `rate_limit` up to 60 means the free plan, which also limits the requests of a month:
    https://openweathermap.org/price
    """
    minutely, monthly = cities * 60 / every, cities * _MONTH / every
    asked = f"{cities} {'city' if cities == 1 else 'cities'} every {every:g}s are"
    if not rate_limit:
        return ""
    if minutely > rate_limit:
        limit, needed = f"`rate_limit` allows {rate_limit}", ceil(cities * 60 / rate_limit)
        return f"{asked} {minutely:,.0f} requests a minute, and {limit}: {_longer(needed)}"
    if rate_limit <= _FREE_RATE and monthly > _FREE_MONTH:
        calculated = f"{asked} {cities} x {_MONTH / every:,.0f} = {monthly:,.0f} requests"
        limit, needed = f"OpenWeather's free plan has {_FREE_MONTH:,}", ceil(cities * _MONTH / _FREE_MONTH)
        return f"{calculated} in 31 days, and {limit}: {_longer(needed)}, or set `rate_limit` to that of your plan"
    return ""


def _longer(seconds: int) -> str:
    return f"write `every: {seconds}s` or longer" if seconds <= _HOUR.seconds else "remove cities"


def _check_cities(section: Section, cities: list[City], rate_limit: int) -> None:
    names = set()
    for index, city in enumerate(cities):
        if city.name and city.name in names:
            section.problem(f"{city.name!r} is in the list twice", "cities", index)
        names.add(city.name)
        given = section.below("cities", index)
        if given.has("latitude") != given.has("longitude"):
            section.problem("needs both latitude and longitude, or neither", "cities", index)
        elif given.has("id") and given.has("latitude"):
            section.problem("has both an id and coordinates: keep one of them", "cities", index)
        if error := timezone_error(city.timezone):
            section.problem(error, "cities", index)
    if rate_limit and len(cities) > rate_limit * _RUN:
        section.problem(
            f"has {len(cities)} cities, but at {rate_limit} requests a minute a run of {_RUN} minutes fetches only "
            f"{rate_limit * _RUN}",
            "cities",
        )
