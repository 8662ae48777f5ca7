"""Readings of a weather station in Ecowitt's upload protocol, as observations in the form of OpenWeather's responses.

The device posts a form in imperial units, whatever it shows on its screen. The protocol is documented by its users:
https://www.pa3hcm.nl/?p=2095, https://github.com/mplogas/ecowitt-controller.
"""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlencode

from validation import parse_decimal, parse_observation

UNITS = "imperial"
_PASSKEY = "PASSKEY"
_MAX_FIELDS = 500
_HPA, _MILLIMETRES = 33.863886666667, 25.4  # in one inch of mercury, in one inch
_RAIN_RATES = ("rainratein", "rrain_piezo")  # of a gauge with a tipping bucket, and of one without moving parts


class WrongPasskey(Exception):
    """A request without the station's passkey."""


class InvalidReading(Exception):
    """An invalid reading; `body` is its form without the passkey."""

    def __init__(self, reason: str, body: bytes) -> None:
        super().__init__(reason)
        self.body = body


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A station: the city of its observations, its place in degrees, and its passkey."""

    city: str
    latitude: float
    longitude: float
    passkey: str = field(repr=False)

    def observation(self, body: bytes, now: float) -> tuple[str, int]:
        """Return the observation of a request as JSON, and its time. Times are Unix seconds.

        Raises WrongPasskey, and InvalidReading for a form of this station that cannot be stored.
        """
        form = self._verified(body)
        kept = urlencode(form).encode()
        try:
            observation = self._convert(form, now)
            return parse_observation(json.dumps(observation, ensure_ascii=False).encode(), now)
        except Exception as error:  # noqa: BLE001 - an unforeseen reading must not get lost
            raise InvalidReading(str(error) or type(error).__name__, kept) from None

    def _verified(self, body: bytes) -> dict[str, str]:
        """Return the form without its passkey. Raises WrongPasskey."""
        try:
            text = body.decode(errors="replace")
            pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS)
        except ValueError:
            raise WrongPasskey from None
        form = dict(pairs)
        given = form.pop(_PASSKEY, "")
        if not hmac.compare_digest(given.upper().encode(), self.passkey.upper().encode()):
            raise WrongPasskey
        return form

    def _convert(self, form: Mapping[str, str], now: float) -> dict[str, object]:
        """Return the form of OpenWeather's responses. Values that the station does not measure are null."""
        rates = (_number(form, name, _MILLIMETRES, 3) for name in _RAIN_RATES)
        rate = next((each for each in rates if each is not None), None)
        return {
            "source": "station",
            "coord": {"lat": self.latitude, "lon": self.longitude},
            "main": {
                "temp": _number(form, "tempf"),
                "humidity": _number(form, "humidity"),
                "pressure": _number(form, "baromrelin", _HPA, 2),
            },
            "wind": {
                "speed": _number(form, "windspeedmph"),
                "deg": _number(form, "winddir"),
                "gust": _number(form, "windgustmph"),
            },
            # As OpenWeather's, the rate in mm/h at this time.
            "rain": None if rate is None else {"1h": rate},
            "snow": None,
            "dt": _time(form, now),
            "name": self.city,
            "station": {
                "type": form.get("stationtype"),
                "solar_radiation_wm2": _number(form, "solarradiation"),
                "uv_index": _number(form, "uv"),
            },
        }


def _number(form: Mapping[str, str], name: str, unit: float = 1, digits: int | None = None) -> float | None:
    """Return a number times `unit`, with `digits` decimals; None for a missing or an empty one. Raises ValueError."""
    text = form.get(name, "").strip()
    if not text:
        return None
    try:
        number = parse_decimal(text) * unit
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is not a number")
    return number if digits is None else round(number, digits)


def _time(form: Mapping[str, str], now: float) -> int:
    """Return the time of the reading in Unix seconds. Raises ValueError."""
    text = form.get("dateutc", "").strip()
    if text == "now":
        return int(now)
    try:
        if not text.isascii():  # strptime accepts the digits of other scripts
            raise ValueError
        return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ValueError("dateutc is not a time such as 2026-01-31 12:00:00") from None
