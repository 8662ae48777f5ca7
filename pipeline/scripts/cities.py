"""The cities to ask for: from a JSON text, or from a file of up to 200,000, CSV or JSON.

Each entry has a name, and may have an `id` of OpenWeather's, or `latitude` and `longitude`. In JSON it may be a bare
name; a CSV file begins with the names of its columns.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from openweather import City

MOST = 200_000
_LONGEST = 200  # characters of a name
_SHOWN = 10  # faults
_KEYS: dict[str, tuple[type, ...]] = {"name": (str,), "id": (int,), "latitude": (int, float), "longitude": (int, float)}
_LIMITS = {"id": (1, 1 << 31), "latitude": (-90, 90), "longitude": (-180, 180)}


class CitiesError(Exception):
    """The cities cannot be read; the text says which and why."""


def of_text(text: str, what: str) -> list[City]:
    """The cities of a JSON list. Raises CitiesError."""
    return _cities(((f"entry {number}", entry) for number, entry in enumerate(_list(text, what), 1)), what)


def of_file(path: Path) -> list[City]:
    """The cities of a CSV or JSON file, each name once. Raises CitiesError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise CitiesError(f"{path} cannot be read: {error}") from None
    found = of_text(text, path.name) if path.suffix.lower() == ".json" else _cities(_rows(text, path.name), path.name)
    seen = set[str]()
    twice = [city.name for city in found if city.name in seen or seen.add(city.name)]  # type: ignore[func-returns-value]
    if twice:
        raise CitiesError(
            f"{path.name}: {', '.join(map(repr, twice[:_SHOWN]))} named twice: the name is what tells them apart later"
        )
    return found


def _list(text: str, what: str) -> list[object]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CitiesError(f"{what} is not JSON: {error}") from None
    if not isinstance(entries, list):
        raise CitiesError(f"{what} has to be a list of at least one city")
    return entries


def _rows(text: str, what: str) -> Iterator[tuple[str, object]]:
    """Each line of a CSV file with its number, its values typed as in JSON."""
    reader = csv.DictReader(text.splitlines(), restkey="", skipinitialspace=True)
    if not {"name"} <= set(reader.fieldnames or ()) <= _KEYS.keys():
        raise CitiesError(
            f"{what}: the first line has to name the columns: name, and as needed id, latitude, "
            f"longitude; not {', '.join(map(repr, reader.fieldnames or ()))}"
        )
    for row in reader:
        entry = {
            key: _typed(key, value.strip()) for key, value in row.items() if isinstance(value, str) and value.strip()
        }
        yield f"line {reader.line_num}", None if "" in row else entry


def _typed(key: str, value: str) -> object:
    """A number where one has to stand; anything else stays text, and is refused later."""
    if key == "name":
        return value
    try:
        return int(value) if key == "id" else float(value)
    except ValueError:
        return value


def _cities(entries: Iterable[tuple[str, object]], what: str) -> list[City]:
    found, faults = list[City](), list[str]()
    for place, entry in entries:
        entry = {"name": entry} if isinstance(entry, str) else entry
        fault = "has more values than there are columns" if entry is None else _fault(entry)
        if fault:
            faults.append(f"{what}: {place}: {fault}")
        elif isinstance(entry, dict):
            found.append(City(**entry))
        if len(faults) == _SHOWN or len(found) > MOST:
            break
    if faults:
        raise CitiesError("; ".join(faults))
    if not found or len(found) > MOST:
        raise CitiesError(
            f"{what} has to be a list of at least one city" if not found else f"{what} has more than {MOST} cities"
        )
    return found


def _fault(entry: object) -> str:
    """What is wrong with an entry, or nothing."""
    if not isinstance(entry, dict) or not str(entry.get("name") or "").strip() or not entry.keys() <= _KEYS.keys():
        return f"{str(entry)[:120]!r} needs a name, and may have only {', '.join(_KEYS)}"
    for key, value in entry.items():
        low, high = _LIMITS.get(key, (0, 0))
        right = isinstance(value, _KEYS[key]) and not isinstance(value, bool)
        if not right or (isinstance(value, int | float) and not low <= value <= high):
            return f"{entry['name']}: {key} cannot be {value!r}"
    if len(entry["name"]) > _LONGEST or "\0" in entry["name"]:
        return f"{entry['name'][:40]!r}… is no name: it is longer than {_LONGEST} characters, or not text"
    if ("latitude" in entry) != ("longitude" in entry):
        return f"{entry['name']} has one coordinate, and needs both or none"
    return ""
