"""The cities to ingest, read from a JSON text or from a CSV or JSON file.

Each entry has a name, and may have OpenWeather's `id`, or `latitude` and `longitude`, and an IANA `timezone`. In JSON
an entry may be just a name. CSV follows RFC 4180; its first record names the columns.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from openweather import City
from validation import MAX_NAME, is_city_name, parse_decimal, parse_whole

MAX_CITIES = 200_000
_MAX_ERRORS = 10  # reported in one message
_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "id": (int,),
    "latitude": (int, float),
    "longitude": (int, float),
    "timezone": (str,),
}
_TIMEZONE = re.compile(
    r"UTC|(Africa|America|Antarctica|Arctic|Asia|Atlantic|Australia|Europe|Indian|Pacific|Etc)(/[A-Za-z0-9_+-]+)+"
)
_RANGES = {"id": (1, 1 << 31), "latitude": (-90, 90), "longitude": (-180, 180)}


class CitiesError(Exception):
    """The list of cities is invalid; the text names the entries and the reasons."""


def parse_cities(text: str, source: str) -> list[City]:
    """Parse a JSON list of cities; `source` names it in messages. Raises CitiesError."""
    return _validate(((f"entry {number}", entry) for number, entry in enumerate(_parse_list(text, source), 1)), source)


def read_cities(path: Path) -> list[City]:
    """Read a CSV or JSON file of cities with distinct names. Raises CitiesError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # read_text would translate newlines within quotes
    except (OSError, ValueError) as error:
        raise CitiesError(f"cannot read {path}: {error}") from None
    is_json = path.suffix.lower() == ".json"
    found = parse_cities(text, path.name) if is_json else _validate(_csv_rows(text, path.name), path.name)
    seen = set[str]()
    duplicates = [city.name for city in found if city.name in seen or seen.add(city.name)]  # type: ignore[func-returns-value]
    if duplicates:
        raise CitiesError(
            f"{path.name}: duplicate names {', '.join(map(repr, duplicates[:_MAX_ERRORS]))}: the marts "
            "identify a city by its name"
        )
    return found


def _parse_list(text: str, source: str) -> list[object]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CitiesError(f"{source} is not JSON: {error}") from None
    if not isinstance(entries, list):
        raise CitiesError(f"{source} must be a list of at least one city")
    return entries


def _csv_rows(text: str, source: str) -> Iterator[tuple[str, object]]:
    """Yield each record of a CSV text with its place; None for one that has too many values. Raises CitiesError."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    start = 1
    try:
        columns = [name.strip() for name in next(reader, [])]
        if not {"name"} <= set(columns) <= _TYPES.keys() or len(set(columns)) < len(columns):
            raise CitiesError(
                f"{source}: the first line must name the columns: name, and optionally id, latitude, "
                f"longitude, timezone; not {', '.join(map(repr, columns))}"
            )
        start = reader.line_num + 1
        for values in reader:
            place, start = f"line {start}", reader.line_num + 1
            if values:
                given = zip(columns, map(str.strip, values), strict=False)
                entry = {key: _convert(key, value) for key, value in given if value}
                yield place, None if len(values) > len(columns) else entry
    except csv.Error as error:
        raise CitiesError(f"{source}: line {start}: {error}") from None


def _convert(key: str, value: str) -> object:
    """Convert a value of a numeric CSV column; keep invalid text, which the validation refuses."""
    if str in _TYPES[key]:
        return value
    try:
        return parse_whole(value) if key == "id" else parse_decimal(value)
    except ValueError:
        return value


def _validate(entries: Iterable[tuple[str, object]], source: str) -> list[City]:
    found, errors = list[City](), list[str]()
    for place, entry in entries:
        entry = {"name": entry} if isinstance(entry, str) else entry
        error = "has more values than columns" if entry is None else _error_of(entry)
        if error:
            errors.append(f"{source}: {place}: {error}")
        elif isinstance(entry, dict):
            found.append(City(**entry))
        if len(errors) == _MAX_ERRORS or len(found) > MAX_CITIES:
            break
    if errors:
        raise CitiesError("; ".join(errors))
    if not found:
        raise CitiesError(f"{source} must be a list of at least one city")
    if len(found) > MAX_CITIES:
        raise CitiesError(f"{source} has more than {MAX_CITIES} cities")
    return found


def _error_of(entry: object) -> str:
    """Return the first error of an entry, or an empty text."""
    if not isinstance(entry, dict) or not str(entry.get("name") or "").strip() or not entry.keys() <= _TYPES.keys():
        return f"{str(entry)[:120]!r} needs a name, and may have only {', '.join(_TYPES)}"
    for key, value in entry.items():
        low, high = _RANGES.get(key, (0, 0))
        valid = isinstance(value, _TYPES[key]) and not isinstance(value, bool)
        if not valid or (isinstance(value, int | float) and not low <= value <= high):
            return f"{entry['name']}: invalid {key} {value!r}"
    if not is_city_name(entry["name"]):
        return f"{entry['name'][:40]!r}… is not a name: it is longer than {MAX_NAME} characters, or not text"
    if not _TIMEZONE.fullmatch(entry.get("timezone", "UTC")):
        return f"{entry['name']}: invalid timezone {entry['timezone']!r}; it must be a name such as Europe/Berlin"
    if ("latitude" in entry) != ("longitude" in entry):
        return f"{entry['name']} has one coordinate, and needs both or none"
    return ""
