"""Settings of the built-in pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from homelab.model.lake import Lake
from homelab.model.options import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class City:
    """A place to observe: by name (`Berlin,DE`), by OpenWeather id, or by coordinates."""

    name: Annotated[
        str,
        Option(
            "OpenWeather's name of the city; with an id or coordinates, any name.",
            pattern=r"(?=.*\S)[^\x00-\x1f\x7f]{1,200}",
            expected="a city's name of at most 200 characters",
        ),
    ]
    id: Annotated[int | None, Option("OpenWeather's id of the city.", low=1, high=1 << 31)] = None
    latitude: Annotated[float | None, Option("Latitude in degrees.", low=-90, high=90)] = None
    longitude: Annotated[float | None, Option("Longitude in degrees.", low=-180, high=180)] = None
    timezone: Annotated[
        str | None,
        Option(
            "IANA time zone, for `days: local`; default: the UTC offset in OpenWeather's responses.",
            pattern=r"UTC|(Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)(/[A-Za-z0-9_+-]+)+",
            expected="a time zone such as Europe/Berlin",
            examples=("Europe/Berlin",),
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Settings of the weather pipeline."""

    folder: Path  # the built-in one, or the user's copy
    cities: tuple[City, ...]
    units: Literal["standard", "metric", "imperial"]
    schedule: str
    api_url: str
    api_key_file: Path
    cities_file: Path | None = None  # replaces `cities`, which is empty then
    rate_limit: int = 60  # requests a minute; 0: unlimited
    days: Literal["utc", "local"] = "utc"  # of the marts
    archive_months: int = 0  # whole months of raw rows in PostgreSQL before they move to object storage; 0: all
    to: Literal["postgres", "broker"] = "postgres"  # destination of the ingestion
    lake: Lake | None = None  # or one DuckDB file
    clickhouse: bool = False  # the server builds the models
