"""Ingestion: what is asked again and what is not, what is said about it, and that the key is never said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from tests.scripts import SCRIPTS
from tests.stub import Answer, serving

import ingest_weather  # isort: skip
import openweather  # isort: skip
from openweather import City, Client, FetchError, Patience  # isort: skip

KEY = "k3y+with/odd=signs"
CITY = City(name="Newark,US")
OK = Answer()


def said(status: int, message: str = "no", **headers: str) -> Answer:
    return Answer(status, json.dumps({"cod": status, "message": message}).encode(),
                  {name.replace("_", "-"): value for name, value in headers.items()})


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(url: str, clock: Clock, run: float = 100) -> Client:
    patience = Patience(request=5, run=run, sleep=clock.sleep, clock=lambda: clock.now, jitter=lambda: 1.0)
    return Client(base_url=url, api_key=KEY, units="imperial", patience=patience, until=run)


@pytest.mark.parametrize(("answers", "slept"), [
    ([OK], []),
    ([said(500), OK], [1]),
    ([said(502), said(503), said(504), said(500), OK], [1, 2, 4, 8]),
    ([said(429, Retry_After="7"), OK], [7]),
    ([said(429), OK], [1]),
    ([Answer(drop=True), Answer(drop=True), OK], [1, 2]),
])
def test_what_passes_is_asked_again(answers: list[Answer], slept: list[float]) -> None:
    clock = Clock()
    with serving(answers) as stub:
        assert client(stub.url, clock).current(CITY) == OK.body.decode()
    assert (clock.slept, len(stub.asked)) == (slept, len(answers))
    assert stub.asked[0] == {"q": "Newark,US", "appid": KEY, "units": "imperial"}


@pytest.mark.parametrize(("answer", "times", "message"), [
    (said(401, f"Invalid API key {KEY}."), 1, "HTTP 401: Invalid API key ***."),
    (said(404, "city not found"), 1, "HTTP 404: city not found"),
    (said(400, "Nothing to geocode"), 1, "HTTP 400: Nothing to geocode"),
    (Answer(302, b"", {"Location": "/elsewhere"}), 1, "HTTP 302: no reason given"),
    (said(503, "busy"), 5, "HTTP 503: busy; asked 5 times"),
    (said(429, "blocked", Retry_After="3600"), 1, "HTTP 429: blocked; no time left to wait 3600 s and ask again"),
    (Answer(drop=True), 5, "no answer (ProtocolError); asked 5 times"),
    (Answer(body=b"<html>"), 1, "the answer is not JSON"),
    (Answer(body=b'{"dt": NaN}'), 1, "the answer is not JSON"),
    (Answer(body=b"[]"), 1, "the answer is no observation: it has no time `dt`"),
    (Answer(body=b'{"main": {}}'), 1, "the answer is no observation: it has no time `dt`"),
    (Answer(body=b" " * (2 << 20)), 1, "the answer is longer than 1048576 bytes"),
])
def test_what_does_not_pass_is_told(answer: Answer, times: int, message: str) -> None:
    with serving([answer]) as stub, pytest.raises(FetchError) as caught:
        client(stub.url, Clock()).current(CITY)
    assert (str(caught.value), len(stub.asked)) == (message, times)


def test_nobody_listening_is_no_answer_and_the_key_is_not_in_it() -> None:
    with serving([OK]) as stub:
        url = stub.url
    with pytest.raises(FetchError) as caught:
        client(url, Clock()).current(CITY)
    assert str(caught.value) == "no answer (NewConnectionError); asked 5 times"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_answer_that_trickles_in_is_given_up() -> None:
    patience = Patience(attempts=1, request=0.3, run=60)
    with serving([Answer(delay=0.05)]) as stub, pytest.raises(FetchError, match="the answer took too long; asked 1"):
        Client(base_url=stub.url, api_key=KEY, units="metric", patience=patience,
               until=patience.clock() + 60).current(CITY)


def test_the_run_ends_in_time() -> None:
    clock = Clock()
    with serving([said(500)]) as stub, pytest.raises(FetchError, match="no time left"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert clock.now < 2.5
    clock.now = 3
    with serving([OK]) as stub, pytest.raises(FetchError, match="no time left to ask"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert stub.asked == []


@pytest.mark.parametrize("attempt", range(8))
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_pauses_double_with_jitter_up_to_a_limit(attempt: int, chance: float) -> None:
    pause = Patience(jitter=lambda: chance).pause(attempt, None)
    longest = min(60, 2.0**attempt)
    assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), ("0", 0), ("", None), ("soon", None), ("-5", None)])
def test_retry_after_is_a_number_of_seconds(value: str, seconds: float | None) -> None:
    assert openweather.retry_after({"Retry-After": value}) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 0)])
def test_retry_after_is_a_date(ahead: int, seconds: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    assert openweather.retry_after({"Retry-After": date}) == pytest.approx(seconds, abs=5)


@pytest.mark.parametrize(("city", "query"), [
    (City(name="Newark,US"), {"q": "Newark,US"}),
    (City(name="Newark,US", id=5101798), {"id": "5101798"}),
    (City(name="Here", id=1, latitude=40.7, longitude=-74.1), {"lat": "40.7", "lon": "-74.1"}),
])
def test_a_city_is_asked_for_by_what_is_most_exact(city: City, query: dict[str, str]) -> None:
    assert city.query() == query


GOOD = {"OPENWEATHER_BASE_URL": "https://127.0.0.1:1", "OPENWEATHER_API_KEY": KEY, "WEATHER_CITIES": '[{"name": "A"}]'}


def test_configuration_of_the_environment() -> None:
    found = ingest_weather.configuration(GOOD | {"WEATHER_CITIES": '[{"name": "A", "id": 3}, {"name": "B"}]'})
    assert (found.cities, found.units, found.deadline) == ([City(name="A", id=3), City(name="B")], "imperial", 600)
    assert KEY not in repr(found)


@pytest.mark.parametrize(("change", "message"), [
    ({"OPENWEATHER_BASE_URL": ""}, "OPENWEATHER_BASE_URL is not set"),
    ({"OPENWEATHER_BASE_URL": "ftp://x"}, "OPENWEATHER_BASE_URL has to look like"),
    ({"OPENWEATHER_BASE_URL": "https://x/?appid=1"}, "OPENWEATHER_BASE_URL has to look like"),
    ({"OPENWEATHER_API_KEY": " "}, "OPENWEATHER_API_KEY is not set"),
    ({"OPENWEATHER_UNITS": "kelvin"}, "OPENWEATHER_UNITS is 'kelvin'"),
    ({"OPENWEATHER_DEADLINE": "soon"}, "OPENWEATHER_DEADLINE has to be a number"),
    ({"WEATHER_CITIES": "Newark"}, "WEATHER_CITIES is not JSON"),
    ({"WEATHER_CITIES": "[]"}, "a list of at least one city"),
    ({"WEATHER_CITIES": '{"name": "A"}'}, "a list of at least one city"),
    ({"WEATHER_CITIES": '[{"id": 1}]'}, "needs a name"),
    ({"WEATHER_CITIES": '[{"name": "A", "lat": 1}]'}, "may have only name, id, latitude, longitude"),
    ({"WEATHER_CITIES": '[{"name": "A", "id": "1"}]'}, "A: id cannot be '1'"),
    ({"WEATHER_CITIES": '[{"name": "A", "id": true}]'}, "A: id cannot be True"),
    ({"WEATHER_CITIES": '[{"name": "A", "latitude": 1}]'}, "A has one coordinate"),
])
def test_a_bad_configuration_says_why(change: dict[str, str], message: str) -> None:
    with pytest.raises(ingest_weather.ConfigurationError) as caught:
        ingest_weather.configuration(GOOD | change)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_bad_configuration_ends_with_2() -> None:
    done = run(GOOD | {"OPENWEATHER_UNITS": "kelvin"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: OPENWEATHER_UNITS is 'kelvin'")


def test_without_postgres_nothing_is_asked_for() -> None:
    with serving([OK]) as stub:
        done = run(GOOD | {"OPENWEATHER_BASE_URL": stub.url, "PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "x"})
    assert (done.returncode, stub.asked) == (1, [])
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["stored"], summary["failed"], summary["errors"]) == (0, 1, {})
    assert "Connection refused" in summary["problem"]
    assert "Connection refused" in done.stderr


def run(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The script as Airflow starts it, with nothing in the environment but this."""
    return subprocess.run([sys.executable, str(SCRIPTS / "ingest_weather.py")], capture_output=True, text=True,
                          check=False, timeout=60,
                          env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], **environment})
