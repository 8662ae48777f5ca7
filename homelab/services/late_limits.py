"""The ages at which the data of the pipelines are late."""

from __future__ import annotations

from collections.abc import Mapping

from homelab.model import Inventory, Weather
from homelab.model.inventory import WEATHER
from homelab.model.options import Duration

_HOUR, _DAY = 3600, 86400
_LATE = {"@hourly": 3 * _HOUR, "@daily": 26 * _HOUR, "@weekly": 8 * _DAY, "@monthly": 32 * _DAY, "@yearly": 367 * _DAY}


def late_limits(inventory: Inventory) -> Mapping[str, float]:
    """Return the seconds after which the data of a pipeline are late, by pipeline; one without a schedule has none."""
    limits = {each.name: each.expected_every.seconds for each in inventory.pipelines if each.expected_every}
    if inventory.weather:
        limits[WEATHER] = _weather_limit(inventory.weather)
    return limits


def stream_limits(inventory: Inventory) -> Mapping[str, float]:
    """Return the seconds after which the newest row of a streaming pipeline is late, by pipeline."""
    stream = inventory.weather and inventory.weather.stream
    return {WEATHER: Duration(stream.expected_every).seconds} if stream else {}


def _weather_limit(weather: Weather) -> float:
    if weather.stream and weather.stream.build_every:
        rows = Duration(weather.stream.expected_every).seconds
        return max(_HOUR, rows + 3 * weather.stream.build_every.seconds)
    return _late_after(weather.build_schedule)


def _late_after(schedule: str) -> float:
    """Return the seconds after which data of a schedule is late; a cron line counts as its nearest preset."""
    if schedule in _LATE:
        return _LATE[schedule]
    _, hour, *days = schedule.split()
    if days != ["*"] * 3:
        return _LATE["@weekly" if days[:2] == ["*"] * 2 else "@monthly" if days[1] == "*" else "@yearly"]
    return _LATE["@hourly" if hour == "*" else "@daily"]
