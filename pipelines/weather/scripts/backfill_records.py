"""Records of past observations: read from a file of JSON or JSON lines, and judged one by one.

OpenWeather's forms differ in the place of the city: see `RecordParser`. Responses of other APIs that look alike
(forecasts, air pollution) are refused.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from ingest_settings import UNITS
from spool import observation_line, quarantine_line
from validation import InvalidResponse, is_city_name, is_number, parse_observation

# Temperatures on earth, with a margin to the records of -89.2 °C and 56.7 °C.
_TEMPERATURES = {"standard": (178.0, 338.0), "metric": (-95.0, 65.0), "imperial": (-139.0, 149.0)}
_SYMBOLS = {"standard": "K", "metric": "°C", "imperial": "°F"}


class FileError(Exception):
    """The file is neither JSON nor JSON lines."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A line of a file that is not JSON."""

    body: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """A judged record: its line for PostgreSQL, its units, and the reason if it is refused."""

    line: bytes
    units: str
    reason: str = ""
    other_units: bool = False  # the temperature is impossible in these units, but possible in others


@dataclass(frozen=True, slots=True)
class RecordParser:
    """Turns records into lines for PostgreSQL; `units` and `known_cities` complete records that lack them.

    A record's city is the first of: `city`, the record's own `city` (a text), the known city with the record's id
    (`id`, `city_id`, also of a whole response, or `city.id`), the name in `city` (an object), `city_name` or `name`.
    """

    city: str | None
    units: str
    known_cities: Mapping[int, str] = field(default_factory=dict)  # by OpenWeather's id
    units_are_certain: bool = False

    def parse(self, record: object) -> Record:
        """Judge a record."""
        if isinstance(record, Unreadable):
            return Record(quarantine_line("unknown", "unknown", record.reason, record.body), "", record.reason)
        wrapper = record if isinstance(record, dict) else {"data": record}
        data: Any = wrapper.get("data", wrapper)
        with _any_digits():
            return self._judge(data, self._city(wrapper, data), wrapper.get("units") or self.units)

    def _judge(self, data: Any, city: str, units: Any) -> Record:
        try:
            body = _encode(data)
            if not city:
                raise InvalidResponse("the observation has no city", body)
            if not is_city_name(city):
                raise InvalidResponse("the observation's city is not a name", body)
            if units not in UNITS:
                raise InvalidResponse(f"unknown units {str(units)[:40]!r}", body)
            text, dt = parse_observation(body, time.time())
            problem = _look_alike(data) or ("" if self.units_are_certain else _unit_problem(data, units))
        except InvalidResponse as error:
            return Record(quarantine_line(city, str(units), str(error), error.body), str(units)[:40], str(error))
        if problem:
            line = quarantine_line(city, units, problem, body)
            return Record(line, units, problem, other_units=not _look_alike(data))
        return Record(observation_line(city, units, dt, text), units)

    def _city(self, record: Mapping[str, Any], data: object) -> str:
        named = self.city or record.get("city")
        if isinstance(named, str):
            return named
        data = data if isinstance(data, dict) else {}
        place = named if isinstance(named, dict) else {}
        for number in (data.get("id"), data.get("city_id"), record.get("city_id"), place.get("id")):
            if isinstance(number, int) and number in self.known_cities:
                return self.known_cities[number]
        system = data.get("sys")
        country = place.get("country") or (system.get("country") if isinstance(system, dict) else None)
        for name in (place.get("name"), data.get("city_name"), data.get("name")):
            if isinstance(name, str) and name:
                return f"{name},{country}" if isinstance(country, str) and country else name
        return ""


@contextmanager
def _any_digits() -> Iterator[None]:
    """Lift Python's limit of 4,300 digits: a longer number makes its record invalid, not the whole file."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _encode(data: object) -> bytes:
    """Return the JSON text of an observation. Raises InvalidResponse."""
    try:
        return json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InvalidResponse("the observation holds half of a surrogate pair", json.dumps(data).encode()) from None
    except RecursionError:
        raise InvalidResponse("the observation is nested too deeply", b"") from None


def _look_alike(data: Mapping[str, Any]) -> str:
    """Return the kind of a response that has an observation's form but is none, or an empty text."""
    system = data.get("sys")
    if "dt_txt" in data or "pop" in data or (isinstance(system, dict) and "pod" in system):
        return "it is a forecast, not an observation"
    if "components" in data or "aqi" in data["main"]:
        return "it is about air pollution, not an observation of the weather"
    return ""


def _unit_problem(data: Mapping[str, Any], units: str) -> str:
    """Return a reason if the temperature is impossible in these units, but possible in others, or an empty text.

    A value that is impossible in all units is a bad value, not a sign of other units: the models judge it.
    """
    temperature = data["main"].get("temp")
    if not is_number(temperature) or _is_possible(temperature, units):
        return ""
    others = [_SYMBOLS[each] for each in UNITS if _is_possible(temperature, each)]
    return f"a temperature of {temperature} cannot be {_SYMBOLS[units]}, but {' or '.join(others)}" if others else ""


def _is_possible(temperature: float, units: str) -> bool:
    low, high = _TEMPERATURES[units]
    return low <= temperature <= high


def read_records(file: IO[bytes]) -> Iterator[object]:
    """Yield the records of a seekable file; Unreadable for a line that is not JSON. Raises FileError."""
    if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
        raise FileError("the file is UTF-16: convert it to UTF-8")
    file.seek(0)
    first = next((line for line in file if line.strip()), b"")
    document = _parse(first)
    if isinstance(document, Unreadable) and first:
        # The first line alone is not JSON: the file may be one document of many lines.
        file.seek(0)
        whole = _parse(file.read())
        if not isinstance(whole, Unreadable):
            yield from _expand(whole)
            return
        file.seek(0)
        if not any(isinstance(_parse(line), dict | list) for line in file):
            raise FileError(f"neither JSON nor JSON lines: {whole.reason}")
    file.seek(0)
    for number, line in enumerate(file, start=1):
        if line.strip():
            document = _parse(line)
            if isinstance(document, Unreadable):
                yield Unreadable(line, f"line {number} {document.reason}")
            else:
                yield from _expand(document)


def _parse(text: bytes) -> object:
    """Parse a JSON text; return Unreadable with the reason if it is none."""
    try:
        with _any_digits():
            return json.loads(text)
    except RecursionError:
        return Unreadable(text, "is nested too deeply")
    except ValueError as error:
        return Unreadable(text, f"is not JSON: {str(error)[:200]}")


def _expand(document: object) -> Iterator[object]:
    """Yield the records of a document: one observation, a list, or a response of the history API."""
    if isinstance(document, list):
        for each in document:
            yield from _expand(each) if isinstance(each, dict) else (each,)
    elif isinstance(document, dict) and isinstance(document.get("list"), list):
        shared = {key: document[key] for key in ("city", "city_id", "units") if key in document}
        yield from ({**shared, "data": data} for data in document["list"])
    else:
        yield document
