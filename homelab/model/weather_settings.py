"""Settings of the built-in pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from homelab.model.lake import Lake
from homelab.model.options import Duration, Option

Freshness = Literal["10m", "15m", "20m", "30m", "1h"]
STREAM: Final = "stream"  # the ingestion is a service, and Airflow builds every hour
ON_DATA: Final = "on_data"  # the same, and Airflow builds after new rows
CITY_NAME = r"(?=.*\S)[^\x00-\x1f\x7f]{1,200}"
CITY_EXPECTED = "a city's name of at most 200 characters"
TIMEZONE = (
    r"UTC|(Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)(/[A-Za-z0-9_+-]+)+"
)
TIMEZONE_EXPECTED = "a time zone such as Europe/Berlin"
# OpenWeather renews its observations every 10 minutes, so no schedule of the marts is shorter.
_EXPECTED = {
    "10m": "*/10 * * * *",
    "15m": "*/15 * * * *",
    "20m": "*/20 * * * *",
    "30m": "*/30 * * * *",
    "1h": "@hourly",
}


def timezone_error(name: str | None) -> str:
    """Return the reason why a name is no time zone of the IANA database, or ""; also "" on a machine without it."""
    from zoneinfo import available_timezones

    known = available_timezones()
    if name is None or name in known or not known:
        return ""
    return f"unknown time zone {name!r}: use a name such as Europe/Berlin"


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A place to observe: by name (`Berlin,DE`), by OpenWeather id, or by coordinates."""

    name: Annotated[
        str,
        Option(
            "OpenWeather's name of the city; with an id or coordinates, any name.",
            pattern=CITY_NAME,
            expected=CITY_EXPECTED,
        ),
    ]
    id: Annotated[int | None, Option("OpenWeather's id of the city.", low=1, high=1 << 31)] = None
    latitude: Annotated[float | None, Option("Latitude in degrees.", low=-90, high=90)] = None
    longitude: Annotated[float | None, Option("Longitude in degrees.", low=-180, high=180)] = None
    timezone: Annotated[
        str | None,
        Option(
            "IANA time zone, for `days: local`; default: the UTC offset in OpenWeather's responses.",
            pattern=TIMEZONE,
            expected=TIMEZONE_EXPECTED,
            examples=("Europe/Berlin",),
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Settings of the streaming ingestion, which requests each city once in `every`."""

    every: Duration
    expected_every: Freshness  # longest time between two new rows
    build_every: Duration | None = None  # shortest time between two builds that new rows start; None: hourly builds
    build_rows: int = 1  # new rows that start a build

    @property
    def schedule(self) -> str:
        """The times at which the marts expect an observation of each city."""
        return _EXPECTED[self.expected_every]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Settings of the weather pipeline."""

    folder: Path  # the built-in one, or the user's copy
    cities: tuple[City, ...]
    units: Literal["standard", "metric", "imperial"]
    schedule: str  # of the ingestion; a stream has the times at which the marts expect an observation
    api_url: str
    api_key_file: Path
    cities_file: Path | None = None  # replaces `cities`, which is empty then
    rate_limit: int = 60  # requests a minute; 0: unlimited
    days: Literal["utc", "local"] = "utc"  # of the marts
    archive_months: int = 0  # whole months of raw rows in PostgreSQL before they move to object storage; 0: all
    to: Literal["postgres", "broker"] = "postgres"  # destination of the ingestion
    lake: Lake | None = None  # or one DuckDB file
    clickhouse: bool = False  # the service builds the models
    stream: Stream | None = None  # None: Airflow starts the ingestion on the schedule

    @property
    def shown_schedule(self) -> str:
        """The schedule as in the inventory."""
        if self.stream is None:
            return self.schedule
        return ON_DATA if self.stream.build_every else STREAM

    @property
    def build_schedule(self) -> str:
        """The schedule of the DAG; a DAG that new rows start ignores it."""
        return "@hourly" if self.stream else self.schedule
