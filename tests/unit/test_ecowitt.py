"""Ecowitt's form as an observation: units, missing values, the passkey, and forms that are none."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from tests import scripts  # noqa: F401 - makes the scripts importable

from ecowitt import InvalidReading, Station, WrongPasskey  # isort: skip

PASSKEY = "0123456789ABCDEF0123456789ABCDEF"
STATION = Station(city="Garden", latitude=48.1, longitude=11.5, passkey=PASSKEY)
# As a device sends it: https://www.pa3hcm.nl/?p=2095
FORM = {
    "PASSKEY": PASSKEY,
    "stationtype": "WH2650A_V1.6.8",
    "dateutc": "2021-12-24 11:31:57",
    "tempinf": "66.0",
    "humidityin": "51",
    "baromrelin": "29.565",
    "baromabsin": "29.565",
    "tempf": "47.8",
    "humidity": "91",
    "winddir": "261",
    "windspeedmph": "8.95",
    "windgustmph": "14.76",
    "solarradiation": "57.25",
    "uv": "0",
    "rainratein": "0.100",
    "wh65batt": "0",
    "freq": "868M",
    "model": "WH2650",
}
NOW = 1_640_345_520.0  # three seconds later


def observe(**changes: str | None) -> dict[str, object]:
    """Return the observation of the form with some fields changed, or removed if None."""
    form = {name: value for name, value in {**FORM, **changes}.items() if value is not None}
    text, dt = STATION.observation(urlencode(form).encode(), NOW)
    found = dict(json.loads(text))
    assert found["dt"] == dt
    return found


def test_reading_has_the_form_and_the_units_of_openweather() -> None:
    found = observe()
    assert found == {
        "source": "station",
        "coord": {"lat": 48.1, "lon": 11.5},
        "main": {"temp": 47.8, "humidity": 91, "pressure": 1001.19},  # hPa of 29.565 inHg
        "wind": {"speed": 8.95, "deg": 261, "gust": 14.76},
        "rain": {"1h": 2.54},  # mm/h of 0.1 in/h
        "snow": None,
        "dt": 1_640_345_517,
        "name": "Garden",
        "station": {"type": "WH2650A_V1.6.8", "solar_radiation_wm2": 57.25, "uv_index": 0},
    }
    assert PASSKEY not in json.dumps(found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tempf": None, "humidity": ""}, {"main": {"temp": None, "humidity": None, "pressure": 1001.19}}),
        ({"rainratein": None}, {"rain": None}),
        ({"rainratein": None, "rrain_piezo": "0.5"}, {"rain": {"1h": 12.7}}),
        ({"rainratein": " ", "rrain_piezo": "0.5"}, {"rain": {"1h": 12.7}}),
        ({"tempf": "-9999"}, {"main": {"temp": -9999, "humidity": 91, "pressure": 1001.19}}),  # the models judge it
        ({"dateutc": "now"}, {"dt": 1_640_345_520}),
        ({"PASSKEY": PASSKEY.lower()}, {"name": "Garden"}),
    ],
)
def test_missing_values_are_unknown(changes: dict[str, str | None], expected: dict[str, object]) -> None:
    assert observe(**changes).items() >= expected.items()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tempf": "warm"}, "tempf is not a number"),
        ({"tempf": "inf"}, "tempf is not a number"),
        ({"tempf": "1_0"}, "tempf is not a number"),
        ({"uv": "٩١"}, "uv is not a number"),
        ({"dateutc": "٢021-12-24 11:31:57"}, "dateutc is not a time"),
        ({"winddir": "1e999"}, "winddir is not a number"),
        ({"baromrelin": "1e308"}, "baromrelin is not a number"),  # in hPa, a double cannot hold it
        ({"rainratein": "1e308"}, "rainratein is not a number"),
        ({"dateutc": None}, "dateutc is not a time"),
        ({"dateutc": "24.12.2021"}, "dateutc is not a time"),
        ({"dateutc": "2021-12-25 11:31:57"}, "`dt` is out of range"),  # a clock that is ahead
        ({"dateutc": "1970-01-01 00:00:00"}, "`dt` is out of range"),  # a clock that was never set
    ],
)
def test_invalid_reading_is_kept_without_the_passkey(changes: dict[str, str | None], reason: str) -> None:
    with pytest.raises(InvalidReading, match=reason) as error:
        observe(**changes)
    assert b"humidity=91" in error.value.body
    assert PASSKEY.encode() not in error.value.body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"PASSKEY=",
        b"PASSKEY=wrong&tempf=1",
        urlencode({**FORM, "PASSKEY": PASSKEY[:-1]}).encode(),
        urlencode({**FORM, "PASSKEY": "\udc80".encode(errors="surrogatepass")}).encode(),
        b"&".join([f"PASSKEY={PASSKEY}".encode(), *(b"a=1" for _ in range(600))]),
        json.dumps(FORM).encode(),
    ],
)
def test_form_without_the_passkey_is_refused(body: bytes) -> None:
    with pytest.raises(WrongPasskey):
        STATION.observation(body, NOW)


def test_text_in_another_encoding_refuses_no_reading() -> None:
    text, _ = STATION.observation(urlencode(FORM).encode() + b"&name=K\xf6ln", NOW)
    assert json.loads(text)["main"]["temp"] == 47.8


def test_representation_has_no_passkey() -> None:
    assert PASSKEY not in repr(STATION)
