"""What an answer has to be to go in: an observation that can be stored as it came, and read back as numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

LARGEST = 1 << 20  # bytes; a real answer has about 600
_LATEST = 86400  # seconds that an observation may lie ahead of our clock
_HIGHEST = 1e6  # every number in these sections is far below
_NUMBERS = ("main", "wind", "clouds", "rain", "snow", "coord")


class FetchError(Exception):
    """A city could not be fetched, for good; the text never holds the API key."""


class Rejected(FetchError):
    """An answer came, and cannot go in; `body` is as much of it as was read."""

    def __init__(self, reason: str, body: bytes) -> None:
        super().__init__(reason)
        self.body = body


def checked(body: bytes, now: float) -> tuple[str, int]:
    """The answer as text, and the time of its observation, in seconds since 1970, as `now` is. Raises Rejected."""
    try:
        text = body.decode()
        said = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Rejected("the answer is not JSON", body) from None
    reason = _objection(said, now)
    if reason:
        raise Rejected(reason, body)
    return text, said["dt"]


def _objection(said: object, now: float) -> str:
    """Why this is no observation, or nothing."""
    if not isinstance(said, dict) or not _whole(said.get("dt")):
        return "the answer is no observation: it has no time `dt`"
    if not 0 <= said["dt"] <= now + _LATEST:
        return f"the answer's time `dt` cannot be {_short(said['dt'])}"
    if not isinstance(said.get("main"), dict):
        return "the answer is no observation: it has no section `main`"
    skies = said.get("weather", [])
    if not isinstance(skies, list) or not all(isinstance(sky, dict) for sky in skies):
        return "the answer's `weather` is not a list of sections"
    for name in _NUMBERS:
        reason = _not_numbers(name, said.get(name, {}))
        if reason:
            return reason
    return ""


def _not_numbers(name: str, section: object) -> str:
    if not isinstance(section, Mapping):
        return f"the answer's `{name}` is not a section"
    for key, value in section.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"the answer's {name}.{key[:40]} is not a number"
        if abs(value) >= _HIGHEST:
            return f"the answer's {name}.{key[:40]} cannot be {_short(value)}"
    return ""


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e300 else "as large as that"


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
