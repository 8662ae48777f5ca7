"""Validation of OpenWeather's responses: which ones can be stored unchanged and read back as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

MAX_BYTES = 1 << 20  # a real response has about 600
_MAX_AHEAD = 86400  # seconds that an observation may be ahead of our clock
_MAX_MAGNITUDE = 1e6  # real values are far below
_NUMERIC_SECTIONS = ("main", "wind", "clouds", "rain", "snow", "coord")


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
        raise InvalidResponse(problem, body)
    return text, observation["dt"]


def _problem_of(observation: object, now: float) -> str:
    """Return the first problem of an observation, or an empty text."""
    if not isinstance(observation, dict) or not _is_integer(observation.get("dt")):
        return "the response is not an observation: it has no time `dt`"
    if not 0 <= observation["dt"] <= now + _MAX_AHEAD:
        return f"the response's time `dt` is out of range: {_shorten(observation['dt'])}"
    if not isinstance(observation.get("main"), dict):
        return "the response is not an observation: it has no section `main`"
    conditions = observation.get("weather", [])
    if not isinstance(conditions, list) or not all(isinstance(condition, dict) for condition in conditions):
        return "the response's `weather` is not a list of sections"
    for name in _NUMERIC_SECTIONS:
        problem = _problem_of_section(name, observation.get(name, {}))
        if problem:
            return problem
    return ""


def _problem_of_section(name: str, section: object) -> str:
    if not isinstance(section, Mapping):
        return f"the response's `{name}` is not a section"
    for key, value in section.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"the response's {name}.{key[:40]} is not a number"
        if abs(value) >= _MAX_MAGNITUDE:
            return f"the response's {name}.{key[:40]} is out of range: {_shorten(value)}"
    return ""


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shorten(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e300 else "over 1e300"


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
