"""Validation of OpenWeather's responses: which ones can be stored unchanged and read back as numbers.

It judges the form, not the weather: an implausible number is stored, and the models replace it with null and list it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping

MAX_BYTES = 1 << 20  # a real response has about 600
MAX_NAME = 200  # characters of a city's name
_MIN_TIME = 283996800  # 1979-01-01, where OpenWeather's history begins; also refuses the sentinel 0
_MAX_AHEAD = 300  # seconds that an observation may be ahead of our clock
_NUMERIC_SECTIONS = ("main", "wind", "clouds", "rain", "snow", "coord")
_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


class FetchError(Exception):
    """A city could not be fetched, after all retries. The text never contains the API key."""


class InvalidResponse(FetchError):
    """A response that cannot be stored; `body` is the part of it that was read."""

    def __init__(self, reason: str, body: bytes) -> None:
        super().__init__(reason)
        self.body = body


def parse_observation(body: bytes, now: float) -> tuple[str, int]:
    """Return the response's text and its observation time. Times are Unix seconds. Raises InvalidResponse."""
    try:
        text = body.decode()
        observation = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidResponse("the response is not JSON", body) from None
    problem = _problem_of(observation, now)
    if problem:
        raise InvalidResponse(printable(problem), body)
    return text, observation["dt"]


def printable(text: str) -> str:
    r"""Escape characters that PostgreSQL refuses or that a terminal interprets, such as NUL as \u0000."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def is_city_name(text: str) -> bool:
    """Return True if the text can identify a city in every table."""
    return bool(text.strip()) and len(text) <= MAX_NAME and not re.search(r"[\x00\ud800-\udfff]", text)


def is_number(value: object) -> bool:
    """Return True for a number that a double can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def parse_whole(text: str) -> int:
    """Return the whole number that a text of digits is. Raises ValueError, unlike int() for `1_000` or `٣`."""
    if not _WHOLE.fullmatch(text):
        raise ValueError("not a whole number")
    return int(text)


def parse_decimal(text: str) -> float:
    """Return the number in a text. Raises ValueError, unlike float() for `1_000`, `nan`, `٣` or `1e999`."""
    number = float(text) if _DECIMAL.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError("not a number")
    return number


def _problem_of(observation: object, now: float) -> str:
    """Return the first problem of an observation, or an empty text."""
    if not isinstance(observation, dict) or not _is_integer(observation.get("dt")):
        return "the response is not an observation: it has no time `dt`"
    if not _MIN_TIME <= observation["dt"] <= now + _MAX_AHEAD:
        return f"the response's time `dt` is out of range: {_shorten(observation['dt'])}"
    if not isinstance(observation.get("main"), dict):
        return "the response is not an observation: it has no section `main`"
    conditions = observation.get("weather")
    if not isinstance(conditions, list | None) or not all(isinstance(each, dict | None) for each in conditions or ()):
        return "the response's `weather` is not a list of sections"
    for name in _NUMERIC_SECTIONS:
        problem = _problem_of_section(name, observation.get(name))
        if problem:
            return problem
    return ""


def _problem_of_section(name: str, section: object) -> str:
    """Return the first problem of a section, or an empty text. Null counts as absent, for it and its values."""
    if section is None:
        return ""
    if not isinstance(section, Mapping):
        return f"the response's `{name}` is not a section"
    for key, value in section.items():
        if value is not None and not is_number(value):
            kind = "out of range" if _is_integer(value) or isinstance(value, float) else "not a number"
            return f"the response's {name}.{key[:40]} is {kind}"
    return ""


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shorten(value: int) -> str:
    return f"{value:.6g}" if abs(value) < 1e300 else "over 1e300"


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
