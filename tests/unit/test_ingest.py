"""Ingestion: what is asked again and what is not, what is said about it, and that the key is never said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.scripts import SCRIPTS
from tests.stub import Answer, serving

import cities  # isort: skip
import ingest_settings  # isort: skip
import ingest_weather  # isort: skip
import openweather  # isort: skip
import spool  # isort: skip
from answers import FetchError, Rejected, checked  # isort: skip
from openweather import City, Client, Limit, Patience  # isort: skip

KEY = "k3y+with/odd=signs"
CITY = City(name="Newark,US")
OK = Answer()


def said(status: int, message: str = "no", **headers: str) -> Answer:
    return Answer(
        status,
        json.dumps({"cod": status, "message": message}).encode(),
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(url: str, clock: Clock, run: float = 100) -> Client:
    patience = Patience(request=5, run=run, sleep=clock.sleep, clock=lambda: clock.now, jitter=lambda: 1.0)
    return Client(base_url=url, api_key=KEY, units="imperial", patience=patience, until=run, limit=Limit(0, patience))


@pytest.mark.parametrize(
    ("answers", "slept"),
    [
        ([OK], []),
        ([said(500), OK], [1]),
        ([said(502), said(503), said(504), said(500), OK], [1, 2, 4, 8]),
        ([said(429, Retry_After="7"), OK], [7]),
        ([said(429), OK], [1]),
        ([Answer(drop=True), Answer(drop=True), OK], [1, 2]),
    ],
)
def test_what_passes_is_asked_again(answers: list[Answer], slept: list[float]) -> None:
    clock = Clock()
    with serving(answers) as stub:
        assert client(stub.url, clock).current(CITY) == OK.body
    assert (clock.slept, len(stub.asked)) == (slept, len(answers))
    assert stub.asked[0] == {"q": "Newark,US", "appid": KEY, "units": "imperial"}


@pytest.mark.parametrize(
    ("answer", "times", "message"),
    [
        (said(401, f"Invalid API key {KEY}."), 1, "HTTP 401: Invalid API key ***."),
        (said(404, "city not found"), 1, "HTTP 404: city not found"),
        (said(400, "Nothing to geocode"), 1, "HTTP 400: Nothing to geocode"),
        (Answer(302, b"", {"Location": "/elsewhere"}), 1, "HTTP 302: no reason given"),
        (said(503, "busy"), 5, "HTTP 503: busy; asked 5 times"),
        (said(429, "blocked", Retry_After="3600"), 1, "HTTP 429: blocked; no time left to wait 3600 s and ask again"),
        (Answer(drop=True), 5, "no answer (ProtocolError); asked 5 times"),
        (Answer(body=b" " * (2 << 20)), 1, "the answer is longer than 1048576 bytes"),
    ],
)
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
        Client(
            base_url=stub.url,
            api_key=KEY,
            units="metric",
            patience=patience,
            limit=Limit(0, patience),
            until=patience.clock() + 60,
        ).current(CITY)


def test_the_run_ends_in_time() -> None:
    clock = Clock()
    with serving([said(500)]) as stub, pytest.raises(FetchError, match="no time left"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert clock.now < 2.5
    clock.now = 3
    with serving([OK]) as stub, pytest.raises(FetchError, match="no time left to ask"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert stub.asked == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "the answer is not JSON"),
        (b"", "the answer is not JSON"),
        (b"\xff{}", "the answer is not JSON"),
        (b"[" * 100_000, "the answer is not JSON"),
        (b'{"dt": NaN, "main": {}}', "the answer is not JSON"),
        (b'{"dt": 1, "main": {"temp": -Infinity}}', "the answer is not JSON"),
        (b'{"dt": 1' + b"0" * 5000 + b', "main": {}}', "the answer is not JSON"),
        (b"[]", "the answer is no observation: it has no time `dt`"),
        (b'{"main": {}}', "the answer is no observation: it has no time `dt`"),
        (b'{"dt": "1", "main": {}}', "the answer is no observation: it has no time `dt`"),
        (b'{"dt": true, "main": {}}', "the answer is no observation: it has no time `dt`"),
        (b'{"dt": 1.5, "main": {}}', "the answer is no observation: it has no time `dt`"),
        (b'{"dt": -1, "main": {}}', "the answer's time `dt` cannot be -1"),
        (b'{"dt": 2000000, "main": {}}', "the answer's time `dt` cannot be 2e+06"),
        (b'{"dt": 1' + b"0" * 400 + b', "main": {}}', "the answer's time `dt` cannot be as large as that"),
        (b'{"dt": 1}', "the answer is no observation: it has no section `main`"),
        (b'{"dt": 1, "main": []}', "the answer is no observation: it has no section `main`"),
        (b'{"dt": 1, "main": {}, "weather": {}}', "the answer's `weather` is not a list of sections"),
        (b'{"dt": 1, "main": {}, "weather": [1]}', "the answer's `weather` is not a list of sections"),
        (b'{"dt": 1, "main": {}, "wind": 3}', "the answer's `wind` is not a section"),
        (b'{"dt": 1, "main": {"temp": "3"}}', "the answer's main.temp is not a number"),
        (b'{"dt": 1, "main": {"temp": true}}', "the answer's main.temp is not a number"),
        (b'{"dt": 1, "main": {"temp": null}}', "the answer's main.temp is not a number"),
        (b'{"dt": 1, "main": {"temp": 1e999}}', "the answer's main.temp is not a number"),
        (b'{"dt": 1, "main": {"temp": 1e9}}', "the answer's main.temp cannot be 1e+09"),
    ],
)
def test_what_cannot_go_in_is_told_and_kept(body: bytes, reason: str) -> None:
    with pytest.raises(Rejected) as caught:
        checked(body, now=1_000_000)
    assert (str(caught.value), caught.value.body) == (reason, body)


@pytest.mark.parametrize(
    "body", [b'{"dt": 0, "main": {}}', b'{"dt": 1086400, "main": {"temp": -40.5}, "weather": [{}], "more": [NaN_]}']
)
def test_what_goes_in_stays_as_it_came(body: bytes) -> None:
    body = body.replace(b"NaN_", b"null")
    assert checked(body, now=1_000_000)[0].encode() == body


def test_so_many_requests_a_minute_and_no_more() -> None:
    clock = Clock()
    limit = Limit(3, Patience(sleep=clock.sleep, clock=lambda: clock.now))
    begun = []
    for _ in range(9):
        assert limit.wait(1000)
        begun.append(clock.now)
    assert begun == [0, 0, 0, 61, 61, 61, 122, 122, 122]
    assert not limit.wait(until=150)
    assert clock.now == 122, "it waited for a turn that comes too late"
    limit.hold(100)
    assert limit.wait(1000)
    assert clock.now == 222


def test_no_limit_is_no_wait() -> None:
    clock = Clock()
    limit = Limit(0, Patience(sleep=clock.sleep, clock=lambda: clock.now))
    assert all(limit.wait(1) for _ in range(1000))
    assert clock.slept == []


def test_a_key_that_is_refused_is_not_shown_again() -> None:
    with serving([said(401, "Invalid API key")]) as stub:
        asking = client(stub.url, Clock())
        for _ in range(3):
            with pytest.raises(FetchError, match="HTTP 401: Invalid API key"):
                asking.current(CITY)
    assert len(stub.asked) == 1


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


@pytest.mark.parametrize(
    ("city", "query"),
    [
        (City(name="Newark,US"), {"q": "Newark,US"}),
        (City(name="Newark,US", id=5101798), {"id": "5101798"}),
        (City(name="Here", id=1, latitude=40.7, longitude=-74.1), {"lat": "40.7", "lon": "-74.1"}),
    ],
)
def test_a_city_is_asked_for_by_what_is_most_exact(city: City, query: dict[str, str]) -> None:
    assert city.query() == query


GOOD = {"OPENWEATHER_BASE_URL": "https://127.0.0.1:1", "OPENWEATHER_API_KEY": KEY, "WEATHER_CITIES": '[{"name": "A"}]'}


def test_configuration_of_the_environment() -> None:
    found = ingest_settings.configuration(GOOD | {"WEATHER_CITIES": '[{"name": "A", "id": 3}, "B"]'})
    assert (found.cities, found.units, found.deadline) == ([City(name="A", id=3), City(name="B")], "imperial", 600)
    assert (found.rate_limit, found.at_once, found.request, found.spool_bytes) == (60, 8, 10, 256 << 20)
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"OPENWEATHER_BASE_URL": ""}, "OPENWEATHER_BASE_URL is not set"),
        ({"OPENWEATHER_BASE_URL": "ftp://x"}, "OPENWEATHER_BASE_URL has to look like"),
        ({"OPENWEATHER_BASE_URL": "https://x/?appid=1"}, "OPENWEATHER_BASE_URL has to look like"),
        ({"OPENWEATHER_API_KEY": " "}, "OPENWEATHER_API_KEY is not set"),
        ({"OPENWEATHER_UNITS": "kelvin"}, "OPENWEATHER_UNITS is 'kelvin'"),
        ({"OPENWEATHER_DEADLINE": "soon"}, "OPENWEATHER_DEADLINE has to be a number"),
        ({"OPENWEATHER_DEADLINE": "nan"}, "OPENWEATHER_DEADLINE has to be a number"),
        ({"OPENWEATHER_RATE_LIMIT": "-1"}, "OPENWEATHER_RATE_LIMIT has to be a whole number from 0"),
        ({"OPENWEATHER_AT_ONCE": "0"}, "OPENWEATHER_AT_ONCE has to be a whole number from 1"),
        ({"WEATHER_CITIES_FILE": "/nowhere/cities.csv"}, "/nowhere/cities.csv cannot be read"),
        ({"WEATHER_CITIES": "Newark"}, "WEATHER_CITIES is not JSON"),
        ({"WEATHER_CITIES": "[]"}, "a list of at least one city"),
        ({"WEATHER_CITIES": '{"name": "A"}'}, "a list of at least one city"),
        ({"WEATHER_CITIES": '[{"id": 1}]'}, "needs a name"),
        ({"WEATHER_CITIES": '[{"name": "A", "lat": 1}]'}, "may have only name, id, latitude, longitude"),
        ({"WEATHER_CITIES": '[{"name": "A", "id": "1"}]'}, "A: id cannot be '1'"),
        ({"WEATHER_CITIES": '[{"name": "A", "id": true}]'}, "A: id cannot be True"),
        ({"WEATHER_CITIES": '[{"name": "A", "latitude": 1}]'}, "A has one coordinate"),
    ],
)
def test_a_bad_configuration_says_why(change: dict[str, str], message: str) -> None:
    with pytest.raises(ingest_settings.ConfigurationError) as caught:
        ingest_settings.configuration(GOOD | change)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_bad_configuration_ends_with_2() -> None:
    done = run(GOOD | {"OPENWEATHER_UNITS": "kelvin"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: OPENWEATHER_UNITS is 'kelvin'")


def test_runs_that_end_at_the_same_time_keep_a_whole_summary_each(tmp_path: Path) -> None:
    def keep(number: int) -> None:
        for _ in range(50):
            ingest_weather.remember(tmp_path, json.dumps([number] * 3000 * (number + 1)))
            json.loads((tmp_path / "last_ingest.json").read_text())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(keep, range(4)))


def test_without_postgres_the_answers_wait_in_the_spool(tmp_path: Path) -> None:
    away = GOOD | {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "x", "WEATHER_DATA": str(tmp_path)}
    with serving([OK, Answer(body=b"<html>")]) as stub:
        done = run(
            away | {"OPENWEATHER_BASE_URL": stub.url, "OPENWEATHER_AT_ONCE": "1", "WEATHER_CITIES": '["A\\tb", "C"]'}
        )
    assert (done.returncode, len(stub.asked)) == (1, 2)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["stored"], summary["spooled"], summary["failed"]) == (0, 1, 1)
    assert "Connection refused" in summary["problem"]
    assert "Connection refused" in done.stderr
    (waiting,) = (tmp_path / "spool").glob("*.rows")
    good, bad = waiting.read_bytes().splitlines()
    assert good.split(b"\t") == [b"1357020000", rb"A\tb", b"imperial", OK.body]
    assert bad.split(b"\t")[1] == b"C"
    assert bytes.fromhex(bad.split(b"\t")[-1].decode()) == b"<html>"
    assert json.loads((tmp_path / "last_ingest.json").read_text())["spooled"] == 1
    last = run(away, "--last")
    assert (last.returncode, last.stderr) == (1, "error: C: the answer is not JSON\n")


def test_a_spool_takes_no_more_than_it_may(tmp_path: Path) -> None:
    with serving([Answer(body=b'{"dt": 1, "main": {}, "x": "%s"}' % (b"x" * 600_000))]) as stub:
        done = run(
            GOOD
            | {
                "OPENWEATHER_BASE_URL": stub.url,
                "PGHOST": "127.0.0.1",
                "PGPORT": "1",
                "PGUSER": "x",
                "WEATHER_CITIES": '["A", "B", "C", "D"]',
                "WEATHER_DATA": str(tmp_path),
                "OPENWEATHER_AT_ONCE": "1",
                "WEATHER_SPOOL_MEGABYTES": "1",
            }
        )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["spooled"], summary["failed"]) == (1, 3)
    assert all("MiB that wait for Postgres" in why for why in summary["errors"].values())
    assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) < 1 << 20


def test_a_full_disk_spoils_nothing_that_is_written_down(tmp_path: Path) -> None:
    environment = GOOD | {
        "PGHOST": "127.0.0.1",
        "PGPORT": "1",
        "PGUSER": "x",
        "WEATHER_DATA": str(tmp_path),
        "WEATHER_CITIES": '["A", "B", "C"]',
        "OPENWEATHER_AT_ONCE": "1",
    }
    long = Answer(body=b'{"dt": 1, "main": {}, "x": "%s"}' % (b"x" * 5000))
    with serving([OK, long]) as stub:
        # 4 KiB in each file: of a module's bytecode, too, which all other tests would then import.
        limited = f"ulimit -f 8; exec {sys.executable} -B {SCRIPTS / 'ingest_weather.py'}"
        done = subprocess.run(
            ["sh", "-c", limited],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.environ["PYTHONPATH"],
                **environment,
                "OPENWEATHER_BASE_URL": stub.url,
            },
        )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["spooled"], summary["failed"]) == (1, 2)
    assert "there is no room" in summary["errors"]["B"]
    (waiting,) = (tmp_path / "spool").glob("*.rows")
    assert waiting.read_bytes().count(b"\n") == waiting.read_bytes().count(b"imperial") == 1


@pytest.mark.parametrize("text", ["plain", "tab\there", "line\nbreak\r", "back\\slash", r"\n", r"\\t", "Zürich", ""])
def test_copys_escapes_go_both_ways(text: str) -> None:
    assert spool.plain(spool.escaped(text).encode()).decode() == text
    assert not set(spool.escaped(text)) & set("\t\n\r")


def test_a_segment_is_held_by_whoever_writes_it_and_found_when_he_is_gone(tmp_path: Path) -> None:
    writer, other = spool.Spool(tmp_path, 1 << 20), spool.Spool(tmp_path, 1 << 20)
    writer.add(b"1\tA\timperial\t{}\n", good=True)
    segment = writer.take()
    assert segment is not None
    assert list(other.left_behind()) == []
    os.write(segment.descriptor, b"2\tB\timper")  # as a kill in the middle of a line leaves it
    os.close(segment.descriptor)
    (found,) = other.left_behind()
    assert (found.mine, found.read()) == (False, [b"1\tA\timperial\t{}\n"])
    assert list(spool.Spool(tmp_path, 1 << 20).left_behind()) == [], "two have it"
    other.done(found)
    assert (list(tmp_path.iterdir()), other.size) == ([], 0)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("c.csv", 'name,id\n"Newark,US",5\nBerlin,\n', [City(name="Newark,US", id=5), City(name="Berlin")]),
        (
            "c.csv",
            "\ufeffname,latitude,longitude\r\nCabin,61.2,-7\r\n",
            [City(name="Cabin", latitude=61.2, longitude=-7)],
        ),
        ("c.json", '["A", {"name": "B", "id": 1}]', [City(name="A"), City(name="B", id=1)]),
    ],
)
def test_cities_come_from_a_file(tmp_path: Path, name: str, text: str, found: list[City]) -> None:
    (tmp_path / name).write_text(text)
    assert cities.of_file(tmp_path / name) == found
    assert run({}, "--check", str(tmp_path / name)).stdout == f"{len(found)} cities\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "", "the first line has to name the columns"),
        ("c.csv", "city\nA\n", "the first line has to name the columns"),
        ("c.csv", "name\n", "at least one city"),
        ("c.csv", "name\nA,B\n", "line 2: has more values than there are columns"),
        ("c.csv", "name,id\nA,x\n,5\n", "line 2: A: id cannot be 'x'; c.csv: line 3: \"{'id': 5}\" needs a name"),
        ("c.csv", "name,latitude,longitude\nA,91,0\n", "A: latitude cannot be 91.0"),
        ("c.csv", "name,latitude,longitude\nA,nan,0\n", "A: latitude cannot be nan"),
        ("c.csv", "name,latitude\nA,9\n", "A has one coordinate"),
        ("c.csv", "name\nA\nB\nA\n", "'A' named twice"),
        ("c.csv", "name\n" + "x" * 201 + "\n", "longer than 200 characters"),
        ("c.csv", "name\n" + "".join(f"c{n}\n" for n in range(200_001)), "more than 200000 cities"),
        ("c.json", "{", "c.json is not JSON"),
        ("c.json", '{"name": "A"}', "a list of at least one city"),
    ],
)
def test_a_bad_file_of_cities_says_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(cities.CitiesError) as caught:
        cities.of_file(tmp_path / name)
    assert message in str(caught.value)


def run(environment: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The script as Airflow starts it, with nothing in the environment but this."""
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "ingest_weather.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], **environment},
    )
