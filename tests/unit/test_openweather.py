"""The replay server: OpenWeather's response format, units and errors, and its position in the data set."""

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
from homelab.lab.openweather import Generated, application, find
from homelab.lab.replay_clocks import Steps, ThisHour, observation

KEY = "sekret"
NEWARK, NEW_YORK, QUEENS = PLACES
# The required fields of https://openweathermap.org/current.
REQUIRED_FIELDS = {
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


def with_client(choose: Any, story: Callable[[TestClient[Any, Any]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with TestClient(TestServer(application(KEY, choose))) as client:
            await story(client)

    asyncio.run(run())


async def ask(client: TestClient[Any, Any], **query: str) -> tuple[int, dict[str, Any]]:
    response = await client.get("/data/2.5/weather", params={"appid": KEY, **query})
    return response.status, await response.json()


def test_data_set_is_complete(stations: dict[str, Any]) -> None:
    assert {station: len(rows) for station, rows in stations.items()} == {"EWR": 8703, "LGA": 8706, "JFK": 8706}


def test_response_has_the_documented_format(stations: dict[str, Any]) -> None:
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


def test_every_row_becomes_a_complete_response(stations: dict[str, Any]) -> None:
    for place in PLACES:
        for row in stations[place.station]:
            reply = answer(place, row, "metric")
            assert reply.keys() >= REQUIRED_FIELDS
            assert "NaN" not in json.dumps(reply)
            assert reply["timezone"] in (-18000, -14400)
            assert reply["sys"]["sunrise"] < reply["sys"]["sunset"]
            assert ("pressure" in reply["main"]) == (row.row["pressure"] != "NA")


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
def test_values_are_converted_to_the_units(units: str, temperature: float, speed: float) -> None:
    reply = answer(NEWARK, Observation(ROW), units)
    assert (reply["main"]["temp"], reply["wind"]["speed"], reply["main"]["pressure"]) == (temperature, speed, 1000.5)


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
def test_conditions_follow_from_rain_and_visibility(change: dict[str, str], sky: str, more: dict[str, Any]) -> None:
    reply = answer(NEWARK, Observation(ROW | change), "imperial")
    assert reply["weather"][0]["description"] == sky
    assert {key: reply[key] for key in ("rain", "snow") if key in reply} == more


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
def test_missing_values_are_omitted(column: str, section: str, fields: set[str]) -> None:
    complete, reduced = (answer(NEWARK, Observation(row), "metric") for row in (ROW, ROW | {column: "NA"}))
    assert complete[section].keys() - reduced[section].keys() == fields


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
def test_city_is_found_by_name_id_and_coordinates(stations: dict[str, Any], query: dict[str, str], name: str) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        status, reply = await ask(client, **query)
        assert (status, reply["name"]) == (200, name)

    with_client(lambda place: stations[place.station][0], story)


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
        ({"id": "1"}, 404, {"cod": "404", "message": "city not found"}),
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
    with_client(Steps(state, stations), story)
    assert not state.exists()


QUERIES = [
    {"q": "Berlin,DE"},
    {"q": "Newark,GB"},
    {"q": "Ushuaia"},
    {"id": "2950159"},
    {"lat": "0", "lon": "0"},
    {"lat": "-33.87", "lon": "151.21"},
    {"lat": "89.9", "lon": "180"},
    {"lat": "-90", "lon": "-180"},
]


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_any_other_city_has_derived_weather(stations: dict[str, Any], query: dict[str, str]) -> None:
    place = find(query)
    assert place not in PLACES
    assert place == find(dict(query))
    rows = stations[place.station]
    replies = [answer(place, observation(place, rows, index), "metric") for index in range(0, len(rows), 5)]
    assert all(reply.keys() >= REQUIRED_FIELDS for reply in replies)
    assert [reply["dt"] for reply in replies] == [row.time.timestamp() for row in rows[::5]]
    assert len({reply["timezone"] for reply in replies}) == 1
    temperatures = [reply["main"]["temp"] for reply in replies if "temp" in reply["main"]]
    assert -60 < min(temperatures) < max(temperatures) < 50
    assert all(reply["main"].get("humidity", 50) <= 100 for reply in replies)
    assert {(reply["name"], reply["id"]) for reply in replies} == {(place.name, place.id)}


def test_derived_city_has_its_own_name_id_and_country(stations: dict[str, Any]) -> None:
    berlin, same, other = (find({"q": name}) for name in ("Berlin,DE", "berlin, de", "Berlin,US"))
    assert (berlin.name, berlin.country) == ("Berlin", "DE")
    assert (berlin.id, berlin.latitude) == (same.id, same.latitude)
    assert berlin.id != other.id
    assert find({"id": "2950159"}).id == 2950159
    sydney = find({"lat": "-33.87", "lon": "151.21"})
    assert (sydney.latitude, sydney.longitude) == (-33.87, 151.21)
    rows = stations[sydney.station]
    january, july = (
        [seen.number("temp") or 0 for seen in (observation(sydney, rows, hour) for hour in range(start, start + 500))]
        for start in (0, 4344)
    )
    assert sum(january) > sum(july), "it is summer in January"


def test_derived_cities_have_positions_of_their_own(stations: dict[str, Any], tmp_path: Path) -> None:
    steps = Steps(tmp_path / "state.json", stations)
    first = [steps(find({"q": name})).time for name in ("Berlin,DE", "Paris,FR", "Berlin,DE", "Newark,US")]
    begin = stations["EWR"][0].time
    assert first == [begin, begin, stations["LGA"][1].time, begin]


def test_generated_cities_have_the_same_weather_until_the_next_hour(stations: dict[str, Any]) -> None:
    async def story() -> None:
        async with TestClient(
            TestServer(application(KEY, lambda _: stations["EWR"][0], Generated(9000, stations)))
        ) as client:
            replies = [(await ask(client, id=number))[1] for number in ("1", "9000", "1")]
            assert [reply["name"] for reply in replies] == ["Generated 1", "Generated 9000", "Generated 1"]
            assert replies[0] == replies[2]
            assert replies[0]["dt"] == stations["LGA"][1].time.timestamp()
            assert (await client.post("/_hour")).status == 401
            assert await (await client.post("/_hour", params={"appid": KEY})).json() == {"hour": 1}
            assert (await ask(client, id="1"))[1]["dt"] == stations["LGA"][2].time.timestamp()
            assert [(await ask(client, id=number))[0] for number in ("0", "9001", "x", "5128581")] == [404] * 3 + [200]

    asyncio.run(story())


def test_injected_faults_apply_in_order_and_keep_the_position(stations: dict[str, Any], tmp_path: Path) -> None:
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

    with_client(Steps(tmp_path / "state.json", stations), story)


def test_position_survives_a_restart_and_wraps_at_the_end(stations: dict[str, Any], tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    first = Steps(state, stations)
    assert [first(NEWARK) for _ in range(3)] == list(stations["EWR"][:3])
    assert first(QUEENS) == stations["JFK"][0]
    again = Steps(state, stations)
    assert (again(NEWARK), again(NEW_YORK)) == (stations["EWR"][3], stations["LGA"][0])
    state.write_text(json.dumps({"EWR": 8703}))
    assert Steps(state, stations)(NEWARK) == stations["EWR"][0]


def test_skipped_hours_count_for_all_cities_and_survive_a_restart(stations: dict[str, Any], tmp_path: Path) -> None:
    async def story(client: TestClient[Any, Any]) -> None:
        assert (await client.post(f"/_skip?appid={KEY}", json={"hours": 700})).status == 200
        assert (await client.post(f"/_skip?appid={KEY}", json={"hours": 5})).status == 200
        assert (await client.post(f"/_skip?appid={KEY}", json={})).status == 400
        assert (await client.post("/_skip?appid=wrong", json={"hours": 1})).status == 401

    state = tmp_path / "state.json"
    steps = Steps(state, stations)
    steps(NEWARK)
    with_client(steps, story)
    assert Steps(state, stations)(NEWARK) == stations["EWR"][700]
    assert Steps(state, stations)(QUEENS) == stations["JFK"][700]


@pytest.mark.parametrize(
    ("now", "seen"),
    [
        (datetime(2026, 7, 4, 12, 59, tzinfo=UTC), datetime(2013, 7, 4, 12, tzinfo=UTC)),
        (datetime(2028, 2, 29, 5, tzinfo=UTC), datetime(2013, 2, 28, 23, tzinfo=UTC)),
        (datetime(2026, 1, 1, 9, tzinfo=UTC), datetime(2013, 1, 1, 9, tzinfo=UTC)),
    ],
)
def test_replay_selects_the_same_hour_of_2013(stations: dict[str, Any], now: datetime, seen: datetime) -> None:
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
        ({"start": "1357020000", "end": "1357034400", "q": "Nowhere,XX"}, 404, 0),
    ],
)
def test_history_has_the_documented_format_and_at_most_a_week(
    stations: dict[str, Any], more: dict[str, str], status: int, hours: int
) -> None:
    async def story(past: Any, wanted: int) -> None:
        async with TestClient(TestServer(application(KEY, ThisHour(stations), None, past))) as client:
            response = await client.get(
                "/data/2.5/history/city",
                params={"appid": KEY, "q": "Newark,US", "type": "hour", "units": "metric", **more},
            )
            reply = await response.json()
        assert response.status == wanted
        if wanted == 200:
            assert (reply["cod"], reply["city_id"]) == ("200", NEWARK.id)
            assert (reply["cnt"], len(reply["list"])) == (hours, hours)
            first = answer(NEWARK, stations["EWR"][0], "metric")
            assert reply["list"][0] == {key: first[key] for key in ("dt", "main", "wind", "clouds", "weather")}

    asyncio.run(story(stations, status))
    asyncio.run(story(None, 401))
