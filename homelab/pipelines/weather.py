"""The options of the weather in its container: the variables of its scripts, and the file of cities."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from homelab.errors import InputError
from homelab.model import ServiceContext, Step, Weather
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import broker_variables, publisher_variables
from homelab.pipelines.layout import SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.steps import File

BROKER_USER = "ingestion"  # its identity at the broker
BUILT_IN = bundled_path("pipelines/weather")
_LONG = 1 << 16  # bytes: a longer list of cities is compared by its hash, as its diff would be unreadable


def weather_variables(context: ServiceContext, layout: Layout, ca_file: str) -> Mapping[str, Any] | None:
    """Return the values for the variables of the weather's scripts; None for another pipeline."""
    weather = context.inventory.weather
    if weather is None or not layout.pipeline.is_weather:
        return None
    cities = [{key: value for key, value in asdict(city).items() if value is not None} for city in weather.cities]
    file = weather.cities_file and cities_path(layout, weather.cities_file)
    broker = {}
    if weather.to == "broker":
        inventory = context.inventory
        broker = {**broker_variables(inventory, BROKER_USER, ca_file), **publisher_variables(inventory)}
    return {"options": weather, "cities": cities, "cities_file": file, "broker": broker}


def require_script(folder: Path, name: str, action: str, part: str) -> None:
    """Raise InputError if the weather's folder, a copy of the user, has no script `name`; `part` is its task."""
    if not (folder / "scripts" / name).exists():
        raise InputError(
            f"Cannot {action}: the copy of the weather has no {part}",
            f"{folder} has no scripts/{name}.",
            "Move the folder away, run `homelab pipeline copy weather`, and make your changes again.",
        )


def broker_secret(user: str) -> str:
    """Return the name of the secret with the password of an identity at the broker."""
    return f"broker-{user}"


def cities_file(weather: Weather, layout: Layout, part: str) -> Iterator[Step]:
    """Yield the file of cities, if the inventory has one; the ingestion script validates it."""
    source = weather.cities_file
    if source is None:
        return
    content = _read(source)
    # Compiled files would be foreign files in the tree of scripts: hence -B.
    script = f"{layout.root}/scripts/ingest_weather.py"
    check = layout.sandbox.run(
        "/usr/bin/env", f"PYTHONPATH={SHARED_SCRIPTS}", f"{SHARED_VENV}/bin/python", "-B", script, "--check"
    )
    # The script recognises CSV and JSON by the suffix.
    copy = f'"$new{source.suffix}"'
    yield File(
        cities_path(layout, source),
        content,
        secret=len(content) > _LONG,
        validate=f'ln -f "$new" {copy}; {check} {copy} || {{ rm -f {copy}; exit 1; }}; rm -f {copy}',
        part=part,
    )


def city_names(weather: Weather) -> Collection[str]:
    """Return the names of the cities, also of those in a file; none of an invalid file, whose errors its step reports.

    Raises InputError for a file that cannot be read.
    """
    if weather.cities_file is None:
        return {city.name for city in weather.cities}
    text = _read(weather.cities_file).decode("utf-8-sig", errors="replace")
    with suppress(ValueError, LookupError, csv.Error, RecursionError):
        return set(_names_in_json(text) if weather.cities_file.suffix.lower() == ".json" else _names_in_csv(text))
    return ()


def _names_in_json(text: str) -> Iterator[str]:
    entries = json.loads(text)
    for entry in entries if isinstance(entries, list) else ():
        name = entry.get("name") if isinstance(entry, dict) else entry
        if isinstance(name, str):
            yield name


def _names_in_csv(text: str) -> Iterator[str]:
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    column = [name.strip() for name in next(rows, [])].index("name")
    yield from (row[column].strip() for row in rows if row)


def _read(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputError(
            f"Cannot read the file of cities: {error.strerror}",
            f"{source}, from `pipelines: weather: cities:` in the inventory.",
            "Correct the path, or the permissions of the file.",
        ) from None


def cities_path(layout: Layout, source: Path) -> str:
    """Return the path of the file of cities in the container; its suffix is that of the user's file."""
    return f"{layout.root}/cities{source.suffix}"
