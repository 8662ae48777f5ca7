"""The clocks of the replay of OpenWeather: each returns an observation of a place."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from homelab.lab.derived_weather import derive_observation
from homelab.lab.observations import PLACES, Observation, Place
from homelab.private_files import read_mapping

_OTHERS = "others"  # key of the position of all cities without a request so far


def observation(place: Place, rows: Sequence[Observation], index: int) -> Observation:
    """Return the observation of a place at an index of its station's rows: recorded, or derived."""
    return rows[index] if place in PLACES else derive_observation(place, rows, index)


class Steps:
    """Clock that returns the next observation at each request; its position survives a restart."""

    def __init__(self, state: Path, stations: Mapping[str, Sequence[Observation]]) -> None:
        self._state, self._stations = state, stations
        self._next: dict[str, int] = read_mapping(state, "Delete it: the replay then starts again.")

    def __call__(self, place: Place) -> Observation:
        rows = self._stations[place.station]
        key = place.station if place in PLACES else str(place.id)
        position = self._next.get(key, self._next.get(_OTHERS, 0))
        self._next[key] = position + 1
        self._save()
        return observation(place, rows, position % len(rows))

    def skip(self, hours: int) -> None:
        """Go on after the first hours of the data set, with the cities that are not there yet."""
        self._next = {key: max(position, hours) for key, position in {_OTHERS: 0, **self._next}.items()}
        self._save()

    def _save(self) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(self._next))
        os.replace(new, self._state)


class ThisHour:
    """Clock that returns the observation of the present hour in 2013, or the last one before it."""

    def __init__(
        self, stations: Mapping[str, Sequence[Observation]], now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._stations, self._now = stations, now

    def __call__(self, place: Place) -> Observation:
        rows, hour = self._stations[place.station], _of_year(self._now())
        index = bisect.bisect_right(rows, hour, key=lambda row: _of_year(row.time)) - 1
        return observation(place, rows, index)


def _of_year(time: datetime) -> tuple[int, int, int]:
    return time.month, time.day, time.hour
