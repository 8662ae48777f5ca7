"""The replay server: OpenWeather's shapes, units and errors, and a place in the data set that is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from homelab.lab.observations import PLACES, Observation, answer, load
from homelab.lab.openweather import Generated, Steps, ThisHour, application

KEY = "sekret"
NEWARK, NEW_YORK, QUEENS = PLACES
# The fields of https://openweathermap.org/current that are always there.
ALWAYS = {
    "coord",
    "weather",
    "base",
    "main",
    "visibility",
    "wind",
    "clouds",
    "dt",
    "sys",
    "timezone",
    "id",
    "name",
    "cod",
}


@pytest.fixture(scope="module")
def stations() -> dict[str, Any]:
    return load()


def talk(choose: Any, story: Callable[[TestClient[Any, Any]], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with TestClient(TestServer(application(KEY, choose))) as client:
            await story(client)

    asyncio.run(whole())


async def ask(client: TestClient[Any, Any], **query: str) -> tuple[int, dict[str, Any]]:
    response = await client.get("/data/2.5/weather", params={"appid": KEY, **query})
    return response.status, await response.json()


def test_the_data_set_is_whole(stations: dict[str, Any]) -> None:
    assert {station: len(rows) for station, rows in stations.items()} == {"EWR": 8703, "LGA": 8706, "JFK": 8706}


def test_an_answer_has_the_documented_shape(stations: dict[str, Any]) -> None:
    assert answer(NEWARK, stations["EWR"][0], "imperial") == {
        "coord": {"lon": -74.1724, "lat": 40.7357},
        "weather": [{"id": 800, "main": "Clear", "description": "clear sky", "icon": "01n"}],
        "base": "stations",
        "main": {
            "temp": 39.02,
            "feels_like": 32.27,
            "temp_min": 39.02,
            "temp_max": 39.02,
            "pressure": 1012,
            "humidity": 59.37,
        },
        "visibility": 10000,
        "wind": {"speed": 10.36, "deg": 270},
        "clouds": {"all": 0},
        "dt": 1357020000,
        "sys": {"type": 2, "id": 2000798, "country": "US", "sunrise": 1357042953, "sunset": 1357075850},
        "timezone": -18000,
        "id": 5101798,
        "name": "Newark",
        "cod": 200,
    }


def test_every_row_becomes_an_answer_without_holes(stations: dict[str, Any]) -> None:
    for place in PLACES:
        for row in stations[place.station]:
            said = answer(place, row, "metric")
            assert said.keys() >= ALWAYS
            assert "NaN" not in json.dumps(said)
            assert said["timezone"] in (-18000, -14400)
            assert said["sys"]["sunrise"] < said["sys"]["sunset"]
            assert ("pressure" in said["main"]) == (row.row["pressure"] != "NA")


ROW = {
    "origin": "EWR",
    "year": "2013",
    "month": "7",
    "day": "1",
    "hour": "14",
    "temp": "32",
    "dewp": "30",
    "humid": "50",
    "wind_dir": "90",
    "wind_speed": "10",
    "wind_gust": "NA",
    "precip": "0",
    "pressure": "1000.5",
    "visib": "10",
    "time_hour": "2013-07-01T18:00:00Z",
}


@pytest.mark.parametrize(
    ("units", "temperature", "speed"),
    [("imperial", 32, 10), ("metric", 0, 4.47), ("standard", 273.15, 4.47), ("nonsense", 273.15, 4.47)],
)
def test_units(units: str, temperature: float, speed: float) -> None:
    said = answer(NEWARK, Observation(ROW), units)
    assert (said["main"]["temp"], said["wind"]["speed"], said["main"]["pressure"]) == (temperature, speed, 1000.5)


@pytest.mark.parametrize(
    ("change", "sky", "more"),
    [
        ({}, "clear sky", {}),
        ({"precip": "0.01"}, "light snow", {"snow": {"1h": 0.25}}),
        ({"precip": "0.01", "temp": "50"}, "light rain", {"rain": {"1h": 0.25}}),
        ({"precip": "1", "temp": "50"}, "moderate rain", {"rain": {"1h": 25.4}}),
        ({"visib": "0.5"}, "fog", {}),
        ({"visib": "2"}, "mist", {}),
    ],
)
def test_the_sky_follows_from_rain_and_visibility(change: dict[str, str], sky: str, more: dict[str, Any]) -> None:
    said = answer(NEWARK, Observation(ROW | change), "imperial")
    assert said["weather"][0]["description"] == sky
    assert {key: said[key] for key in ("rain", "snow") if key in said} == more


@pytest.mark.parametrize(
    ("column", "section", "fields"),
    [
        ("temp", "main", {"temp", "feels_like", "temp_min", "temp_max"}),
        ("humid", "main", {"humidity"}),
        ("pressure", "main", {"pressure"}),
        ("wind_speed", "wind", {"speed"}),
        ("wind_dir", "wind", {"deg"}),
    ],
)
def test_what_the_data_set_lacks_is_left_out(column: str, section: str, fields: set[str]) -> None:
    whole, less = (answer(NEWARK, Observation(row), "metric") for row in (ROW, ROW | {column: "NA"}))
    assert whole[section].keys() - less[section].keys() == fields


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"q": "Newark,US"}, "Newark"),
        ({"q": "new york"}, "New York"),
        ({"q": "Queens,NY,us"}, "Queens"),
        ({"id": "5128581"}, "New York"),
        ({"lat": "40.7", "lon": "-73.85"}, "Queens"),
    ],
)
def test_a_place_is_found(stations: dict[str, Any], query: dict[str, str], name: str) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        status, said = await ask(client, **query)
        assert (status, said["name"]) == (200, name)

    talk(lambda place: stations[place.station][0], story)


@pytest.mark.parametrize(
    ("query", "status", "body"),
    [
        (
            {"appid": "x", "q": "Newark"},
            401,
            {
                "cod": 401,
                "message": "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info.",
            },
        ),
        ({"q": "Nowhere,XX"}, 404, {"cod": "404", "message": "city not found"}),
        ({"q": "Newark,GB"}, 404, {"cod": "404", "message": "city not found"}),
        ({"id": "1"}, 404, {"cod": "404", "message": "city not found"}),
        ({"lat": "0", "lon": "0"}, 404, {"cod": "404", "message": "city not found"}),
        ({}, 400, {"cod": "400", "message": "Nothing to geocode"}),
        ({"q": " "}, 400, {"cod": "400", "message": "Nothing to geocode"}),
        ({"lat": "91", "lon": "0"}, 400, {"cod": "400", "message": "wrong latitude"}),
        ({"lat": "1"}, 400, {"cod": "400", "message": "wrong longitude"}),
    ],
)
def test_errors_are_openweathers_own(
    query: dict[str, str], status: int, body: dict[str, Any], tmp_path: Path, stations: dict[str, Any]
) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        assert await ask(client, **query) == (status, body)

    state = tmp_path / "state.json"
    talk(Steps(state, stations), story)
    assert not state.exists()


def test_generated_cities_have_the_same_weather_until_the_next_hour(stations: dict[str, Any]) -> None:
    async def story() -> None:
        async with TestClient(
            TestServer(application(KEY, lambda _: stations["EWR"][0], Generated(9000, stations)))
        ) as client:
            asked = [(await ask(client, id=number))[1] for number in ("1", "9000", "1")]
            assert [said["name"] for said in asked] == ["Generated 1", "Generated 9000", "Generated 1"]
            assert asked[0] == asked[2]
            assert asked[0]["dt"] == stations["LGA"][1].time.timestamp()
            assert (await client.post("/_hour")).status == 401
            assert await (await client.post("/_hour", params={"appid": KEY})).json() == {"hour": 1}
            assert (await ask(client, id="1"))[1]["dt"] == stations["LGA"][2].time.timestamp()
            assert [(await ask(client, id=number))[0] for number in ("0", "9001", "x", "5128581")] == [404] * 3 + [200]

    asyncio.run(story())


def test_injected_faults_take_their_turns_and_move_nothing(stations: dict[str, Any], tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        refused = await client.post("/_faults", json={"status": 500})
        assert refused.status == 401
        await client.post("/_faults", params={"appid": KEY}, json={"status": 429, "times": 2, "retry_after": 7})
        await client.post("/_faults", params={"appid": KEY}, json={"status": 503, "q": "Queens,US"})
        assert (await client.post("/_faults", params={"appid": KEY}, json={"state": 1})).status == 400
        limited = await client.get("/data/2.5/weather", params={"appid": KEY, "q": "Newark"})
        assert (limited.status, limited.headers["Retry-After"], (await limited.json())["cod"]) == (429, "7", 429)
        assert (await ask(client, q="Newark"))[0] == 429
        assert (await ask(client, q="Newark"))[1]["dt"] == 1357020000
        assert await ask(client, q="Queens,US") == (503, {"cod": 503, "message": "Internal server error"})
        assert (await ask(client, q="Queens,US"))[0] == 200
        await client.post("/_faults", params={"appid": KEY}, json={"status": 500, "times": 99})
        await client.delete("/_faults", params={"appid": KEY})
        assert (await ask(client, q="Newark"))[0] == 200
        assert (await client.get("/healthz")).status == 200

    talk(Steps(tmp_path / "state.json", stations), story)


def test_steps_go_on_after_a_restart_and_begin_again_at_the_end(stations: dict[str, Any], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = Steps(state, stations)
    assert [first(NEWARK) for _ in range(3)] == list(stations["EWR"][:3])
    assert first(QUEENS) == stations["JFK"][0]
    again = Steps(state, stations)
    assert (again(NEWARK), again(NEW_YORK)) == (stations["EWR"][3], stations["LGA"][0])
    state.write_text(json.dumps({"EWR": 8703}))
    assert Steps(state, stations)(NEWARK) == stations["EWR"][0]


@pytest.mark.parametrize(
    ("now", "seen"),
    [
        (datetime(2026, 7, 4, 12, 59, tzinfo=UTC), datetime(2013, 7, 4, 12, tzinfo=UTC)),
        (datetime(2028, 2, 29, 5, tzinfo=UTC), datetime(2013, 2, 28, 23, tzinfo=UTC)),
        (datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2013, 1, 1, 9, tzinfo=UTC)),
    ],
)
def test_the_real_clock_gives_this_hour_of_the_year(stations: dict[str, Any], now: datetime, seen: datetime) -> None:
    assert ThisHour(stations, lambda: now)(NEWARK).time == seen


@pytest.mark.parametrize(
    ("more", "status", "hours"),
    [
        ({"start": "1357020000", "end": "1357034400"}, 200, 5),
        ({"start": "1357020000", "cnt": "2"}, 200, 2),
        ({"start": "1357020000", "end": "1357020000"}, 200, 1),
        ({"start": "1357020000", "end": "1357713600"}, 400, 0),
        ({"start": "1357020000", "end": "1357016400"}, 400, 0),
        ({"start": "soon", "end": "1357034400"}, 400, 0),
        ({"start": "1357020000", "end": "1357034400", "type": "day"}, 400, 0),
        ({"start": "1357020000", "end": "1357034400", "q": "Nowhere"}, 404, 0),
    ],
)
def test_the_history_has_the_documented_shape_a_week_at_a_time(
    stations: dict[str, Any], more: dict[str, str], status: int, hours: int
) -> None:
    async def story(past: Any, wanted: int) -> None:
        async with TestClient(TestServer(application(KEY, ThisHour(stations), None, past))) as client:
            response = await client.get(
                "/data/2.5/history/city",
                params={"appid": KEY, "q": "Newark,US", "type": "hour", "units": "metric", **more},
            )
            said = await response.json()
        assert response.status == wanted
        if wanted == 200:
            assert (said["cod"], said["city_id"], said["cnt"], len(said["list"])) == ("200", NEWARK.id, hours, hours)
            first = answer(NEWARK, stations["EWR"][0], "metric")
            assert said["list"][0] == {key: first[key] for key in ("dt", "main", "wind", "clouds", "weather")}

    asyncio.run(story(stations, status))
    asyncio.run(story(None, 401))
