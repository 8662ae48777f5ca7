"""The ingestion: retries, rate limit, validation, settings, spool and file of cities; no output contains the key."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests import odd_json
from tests.scripts import SCRIPTS
from tests.stub import Response, serve

import cities  # isort: skip
import ingest_settings  # isort: skip
import ingest_weather  # isort: skip
import openweather  # isort: skip
import spool  # isort: skip
from contract import EXIT  # isort: skip
from openweather import City, Client, RateLimit, RetryPolicy  # isort: skip
from validation import FetchError, InvalidResponse, parse_observation  # isort: skip

KEY = "k3y+with/odd=signs"
CITY = City(name="Newark,US")
OK = Response()


def error(status: int, message: str = "no", **headers: str) -> Response:
    return Response(
        status,
        json.dumps({"cod": status, "message": message}).encode(),
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


class Clock:
    """A clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client(url: str, clock: Clock, run: float = 100) -> Client:
    policy = RetryPolicy(
        request_deadline=5, run_deadline=run, sleep=clock.sleep, clock=lambda: clock.now, jitter=lambda: 1.0
    )
    return Client(base_url=url, api_key=KEY, units="imperial", policy=policy, until=run, limit=RateLimit(0, policy))


@pytest.mark.parametrize(
    ("responses", "slept"),
    [
        ([OK], []),
        ([error(500), OK], [1]),
        ([error(502), error(503), error(504), error(500), OK], [1, 2, 4, 8]),
        ([error(429, Retry_After="7"), OK], [7]),
        ([error(429), OK], [1]),
        ([Response(drop=True), Response(drop=True), OK], [1, 2]),
    ],
)
def test_transient_errors_are_retried(responses: list[Response], slept: list[float]) -> None:
    clock = Clock()
    with serve(responses) as stub:
        assert client(stub.url, clock).current(CITY) == OK.body
    assert (clock.slept, len(stub.requests)) == (slept, len(responses))
    assert stub.requests[0] == {"q": "Newark,US", "appid": KEY, "units": "imperial"}


@pytest.mark.parametrize(
    ("response", "times", "message"),
    [
        (error(401, f"Invalid API key {KEY}."), 1, "HTTP 401: Invalid API key ***."),
        (error(404, "city not found"), 1, "HTTP 404: city not found"),
        (error(400, "Nothing to geocode"), 1, "HTTP 400: Nothing to geocode"),
        (Response(302, b"", {"Location": "/elsewhere"}), 1, "HTTP 302: no message"),
        (error(503, "busy"), 5, "HTTP 503: busy; 5 attempts"),
        (
            error(429, "blocked", Retry_After="3600"),
            1,
            "HTTP 429: blocked; the run's deadline is before the next attempt in 3600 s",
        ),
        (Response(drop=True), 5, "no response (ProtocolError); 5 attempts"),
        (Response(body=b" " * (2 << 20)), 1, "the response is longer than 1048576 bytes"),
    ],
)
def test_permanent_errors_are_reported_without_the_key(response: Response, times: int, message: str) -> None:
    with serve([response]) as stub, pytest.raises(FetchError) as caught:
        client(stub.url, Clock()).current(CITY)
    assert (str(caught.value), len(stub.requests)) == (message, times)


def test_refused_connection_is_reported_without_the_key() -> None:
    with serve([OK]) as stub:
        url = stub.url
    with pytest.raises(FetchError) as caught:
        client(url, Clock()).current(CITY)
    assert str(caught.value) == "no response (NewConnectionError); 5 attempts"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_slow_response_times_out() -> None:
    policy = RetryPolicy(attempts=1, request_deadline=0.3, run_deadline=60)
    with (
        serve([Response(delay=0.05)]) as stub,
        pytest.raises(FetchError, match="the response took too long; 1 attempts"),
    ):
        Client(
            base_url=stub.url,
            api_key=KEY,
            units="metric",
            policy=policy,
            limit=RateLimit(0, policy),
            until=policy.clock() + 60,
        ).current(CITY)


def test_no_attempt_starts_after_the_runs_deadline() -> None:
    clock = Clock()
    with serve([error(500)]) as stub, pytest.raises(FetchError, match="deadline is before the next attempt"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert clock.now < 2.5
    clock.now = 3
    with serve([OK]) as stub, pytest.raises(FetchError, match="the run's deadline has passed"):
        client(stub.url, clock, run=2.5).current(CITY)
    assert stub.requests == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "the response is not JSON"),
        (b"", "the response is not JSON"),
        (b"\xff{}", "the response is not JSON"),
        (b"[" * 100_000, "the response is not JSON"),
        (b'{"dt": NaN, "main": {}}', "the response is not JSON"),
        (b'{"dt": 1600000000, "main": {"temp": -Infinity}}', "the response is not JSON"),
        (b'{"dt": 1' + b"0" * 5000 + b', "main": {}}', "the response is not JSON"),
        (b"[]", "the response is not an observation: it has no time `dt`"),
        (b'{"main": {}}', "the response is not an observation: it has no time `dt`"),
        (b'{"dt": "1", "main": {}}', "the response is not an observation: it has no time `dt`"),
        (b'{"dt": true, "main": {}}', "the response is not an observation: it has no time `dt`"),
        (b'{"dt": 1.5, "main": {}}', "the response is not an observation: it has no time `dt`"),
        (b'{"dt": -1, "main": {}}', "the response's time `dt` is out of range: -1"),
        (b'{"dt": 0, "main": {}}', "the response's time `dt` is out of range: 0"),
        (b'{"dt": 283996799, "main": {}}', "the response's time `dt` is out of range: 2.83997e+08"),
        (b'{"dt": 1700000301, "main": {}}', "the response's time `dt` is out of range: 1.7e+09"),
        (b'{"dt": 1700000000000, "main": {}}', "the response's time `dt` is out of range: 1.7e+12"),
        (b'{"dt": 1' + b"0" * 400 + b', "main": {}}', "the response's time `dt` is out of range: over 1e300"),
        (b'{"dt": 1600000000}', "the response is not an observation: it has no section `main`"),
        (b'{"dt": 1600000000, "main": []}', "the response is not an observation: it has no section `main`"),
        (b'{"dt": 1600000000, "main": {}, "weather": {}}', "the response's `weather` is not a list of sections"),
        (b'{"dt": 1600000000, "main": {}, "weather": [1]}', "the response's `weather` is not a list of sections"),
        (b'{"dt": 1600000000, "main": {}, "wind": 3}', "the response's `wind` is not a section"),
        (b'{"dt": 1600000000, "main": {"temp": "3"}}', "the response's main.temp is not a number"),
        (b'{"dt": 1600000000, "main": {"temp": true}}', "the response's main.temp is not a number"),
        (b'{"dt": 1600000000, "main": {"temp": [1]}}', "the response's main.temp is not a number"),
        (b'{"dt": 1600000000, "main": {"temp": 1e999}}', "the response's main.temp is out of range"),
        (b'{"dt": 1600000000, "main": {"temp": 1' + b"0" * 400 + b"}}", "the response's main.temp is out of range"),
        (
            b'{"dt": 1600000000, "main": {}, "rain": {"3h": -1' + b"0" * 400 + b"}}",
            "the response's rain.3h is out of range",
        ),
        (rb'{"dt": 1600000000, "main": {"a\u0000b": "x"}}', r"the response's main.a\u0000b is not a number"),
        (rb'{"dt": 1600000000, "main": {"\ud800\u001b": "x"}}', r"the response's main.\ud800\u001b is not a number"),
    ],
)
def test_invalid_response_is_refused_with_its_body(body: bytes, reason: str) -> None:
    with pytest.raises(InvalidResponse) as caught:
        parse_observation(body, now=1_700_000_000)
    assert (str(caught.value), caught.value.body) == (reason, body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"dt": 283996800, "main": {}}',
        b'{"dt": 1700000300, "main": {"temp": -40.5}, "weather": [{}], "more": [null]}',
        b'{"dt": 1600000000, "main": {"temp": null, "pressure": 1013}}',
        b'{"dt": 1600000000, "main": {}, "wind": {"speed": 3, "deg": 20, "gust": null}}',
        b'{"dt": 1600000000, "main": {}, "wind": null, "rain": null, "snow": null, "clouds": null, "coord": null}',
        b'{"dt": 1600000000, "main": {}, "weather": null, "sys": null, "visibility": null}',
        b'{"dt": 1600000000, "main": {}, "weather": [null]}',
        b'{"dt": 1600000000, "main": {}, "rain": {"3h": 6.0}, "sys": {"sunrise": 0, "sunset": 0}}',
        b'{"dt": 1600000000, "main": {"temp": -459.67, "humidity": 1e9}, "rain": {"1h": -0.1}}',
    ],
)
def test_valid_response_is_not_changed(body: bytes) -> None:
    """Null counts as absent; the models judge implausible numbers."""
    assert parse_observation(body, now=1_700_000_000)[0].encode() == body


def test_rate_limit_holds_in_every_minute() -> None:
    clock = Clock()
    limit = RateLimit(3, RetryPolicy(sleep=clock.sleep, clock=lambda: clock.now))
    starts = []
    for _ in range(9):
        assert limit.wait(1000)
        starts.append(clock.now)
    assert starts == [0, 0, 0, 61, 61, 61, 122, 122, 122]
    assert not limit.wait(until=150)
    assert clock.now == 122, "it waited for a start that is after the deadline"
    limit.block(100)
    assert limit.wait(1000)
    assert clock.now == 222


def test_without_a_rate_limit_requests_do_not_wait() -> None:
    clock = Clock()
    limit = RateLimit(0, RetryPolicy(sleep=clock.sleep, clock=lambda: clock.now))
    assert all(limit.wait(1) for _ in range(1000))
    assert clock.slept == []


def test_refused_key_is_sent_only_once() -> None:
    with serve([error(401, "Invalid API key")]) as stub:
        one = client(stub.url, Clock())
        for _ in range(3):
            with pytest.raises(FetchError, match="HTTP 401: Invalid API key"):
                one.current(CITY)
    assert len(stub.requests) == 1


@pytest.mark.parametrize("attempt", range(8))
@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_pauses_double_with_jitter_up_to_a_limit(attempt: int, chance: float) -> None:
    pause = RetryPolicy(jitter=lambda: chance).pause(attempt, None)
    longest = min(60, 2.0**attempt)
    assert longest / 2 <= pause <= longest


@pytest.mark.parametrize(("value", "seconds"), [("3", 3), ("0", 0), ("", None), ("soon", None), ("-5", None)])
def test_retry_after_as_seconds(value: str, seconds: float | None) -> None:
    assert openweather.retry_after({"Retry-After": value}) == seconds


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 0)])
def test_retry_after_as_a_date(ahead: int, seconds: float) -> None:
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
def test_city_is_queried_by_its_most_exact_identification(city: City, query: dict[str, str]) -> None:
    assert city.query() == query


RESPONSE = (
    '{"coord":{"lon":10,"lat":50},"weather":[{"id":800,"description":"clear sky"}],"main":{"temp":50,"feels_like":48,'
    '"pressure":1013,"humidity":60},"visibility":10000,"wind":{"speed":5,"deg":200},"clouds":{"all":0},"dt":1600000000,'
    '"sys":{"country":"XX","sunrise":1,"sunset":2},"timezone":0,"id":1,"name":"Some","cod":200}'
)
GOOD = {"OPENWEATHER_BASE_URL": "https://127.0.0.1:1", "OPENWEATHER_API_KEY": KEY, "WEATHER_CITIES": '[{"name": "A"}]'}
NO_POSTGRES = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGUSER": "x"}


def test_settings_and_their_defaults() -> None:
    found = ingest_settings.read_settings(GOOD | {"WEATHER_CITIES": '[{"name": "A", "id": 3}, "B"]'})
    assert (found.cities, found.units, found.run_deadline) == ([City(name="A", id=3), City(name="B")], "imperial", 600)
    assert (found.rate_limit, found.concurrency, found.request_deadline, found.spool_bytes) == (60, 8, 10, 256 << 20)
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"OPENWEATHER_BASE_URL": ""}, "OPENWEATHER_BASE_URL is not set"),
        ({"OPENWEATHER_BASE_URL": "ftp://x"}, "OPENWEATHER_BASE_URL must look like"),
        ({"OPENWEATHER_BASE_URL": "https://x/?appid=1"}, "OPENWEATHER_BASE_URL must look like"),
        ({"OPENWEATHER_API_KEY": " "}, "OPENWEATHER_API_KEY is not set"),
        ({"OPENWEATHER_UNITS": "kelvin"}, "OPENWEATHER_UNITS must be one of standard, metric, imperial, not 'kelvin'"),
        ({"OPENWEATHER_DEADLINE": "soon"}, "OPENWEATHER_DEADLINE must be a number"),
        ({"OPENWEATHER_DEADLINE": "nan"}, "OPENWEATHER_DEADLINE must be a number"),
        ({"OPENWEATHER_DEADLINE": "1_0"}, "OPENWEATHER_DEADLINE must be a number"),
        ({"OPENWEATHER_CONCURRENCY": "٣"}, "OPENWEATHER_CONCURRENCY must be an integer from 1 to 256, not '٣'"),
        ({"OPENWEATHER_RATE_LIMIT": "9" * 5000}, "OPENWEATHER_RATE_LIMIT must be an integer from 0"),
        ({"OPENWEATHER_RATE_LIMIT": "-1"}, "OPENWEATHER_RATE_LIMIT must be an integer from 0"),
        ({"OPENWEATHER_CONCURRENCY": "0"}, "OPENWEATHER_CONCURRENCY must be an integer from 1"),
        ({"WEATHER_CITIES_FILE": "/nowhere/cities.csv"}, "cannot read /nowhere/cities.csv"),
        ({"WEATHER_CITIES": "Newark"}, "WEATHER_CITIES is not JSON"),
        ({"WEATHER_CITIES": "[]"}, "a list of at least one city"),
        ({"WEATHER_CITIES": '{"name": "A"}'}, "a list of at least one city"),
        ({"WEATHER_CITIES": '[{"id": 1}]'}, "needs a name"),
        ({"WEATHER_CITIES": '[{"name": "A", "lat": 1}]'}, "may have only name, id, latitude, longitude, timezone"),
        ({"WEATHER_CITIES": '[{"name": "A", "id": "1"}]'}, "A: invalid id '1'"),
        ({"WEATHER_CITIES": '[{"name": "A", "id": true}]'}, "A: invalid id True"),
        ({"WEATHER_CITIES": '[{"name": "A", "latitude": 1}]'}, "A has one coordinate"),
    ],
)
def test_invalid_settings_are_reported_with_their_name(change: dict[str, str], message: str) -> None:
    with pytest.raises(ingest_settings.SettingsError) as caught:
        ingest_settings.read_settings(GOOD | change)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


def test_invalid_settings_have_their_own_exit_status() -> None:
    done = run(GOOD | {"OPENWEATHER_UNITS": "kelvin"})
    assert (done.returncode, done.stdout) == (EXIT.bad_input, "")
    assert done.stderr.startswith("error: OPENWEATHER_UNITS must be one of")


def test_run_whose_summary_cannot_be_written_has_failed_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "last_ingest.json.new").mkdir()
    with serve([OK]) as stub:
        done = run(GOOD | NO_POSTGRES | {"WEATHER_DATA": str(tmp_path), "OPENWEATHER_BASE_URL": stub.url})
    assert done.returncode == EXIT.failed
    assert done.stderr.splitlines()[-1] == f"error: cannot write the summary to {tmp_path}: Is a directory"
    assert json.loads(done.stdout)["spooled"] == 1


def test_parallel_runs_write_complete_summaries(tmp_path: Path) -> None:
    def save(number: int) -> None:
        for _ in range(50):
            ingest_weather.save_summary(tmp_path, json.dumps([number] * 3000 * (number + 1)))
            json.loads((tmp_path / "last_ingest.json").read_text())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(save, range(4)))


def test_responses_wait_in_the_spool_while_postgresql_is_unreachable(tmp_path: Path) -> None:
    environment = GOOD | NO_POSTGRES | {"WEATHER_DATA": str(tmp_path)}
    with serve([OK, Response(body=b"<html>")]) as stub:
        done = run(
            environment
            | {"OPENWEATHER_BASE_URL": stub.url, "OPENWEATHER_CONCURRENCY": "1", "WEATHER_CITIES": '["A\\tb", "C"]'}
        )
    assert (done.returncode, len(stub.requests)) == (EXIT.failed, 2)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["stored"], summary["spooled"], summary["failed"]) == (0, 1, 1)
    assert "Connection refused" in summary["problem"]
    assert "Connection refused" in done.stderr
    (segment,) = (tmp_path / "spool").glob("*.rows")
    observation, quarantined = segment.read_bytes().splitlines()
    assert observation.split(b"\t") == [b"1357020000", rb"A\tb", b"imperial", OK.body]
    assert quarantined.split(b"\t")[1] == b"C"
    assert bytes.fromhex(quarantined.split(b"\t")[-1].decode()) == b"<html>"
    assert json.loads((tmp_path / "last_ingest.json").read_text())["spooled"] == 1
    last = run(environment, "--last")
    assert (last.returncode, last.stderr) == (EXIT.failed, "error: C: the response is not JSON\n")


@pytest.mark.parametrize(
    "odd",
    [
        Response(body=b'{"dt": 1600000000, "main": {"temp": 1' + b"0" * 400 + b"}}"),
        Response(body=rb'{"dt": 1600000000, "main": {"a\u0000b": "x"}}'),
        Response(body=rb'{"dt": 1600000000, "main": {"\ud800": "x"}}'),
        Response(body=b'{"dt": 0, "main": {}}'),
        Response(body=b'{"x": ' * 100_000),
        Response(401, b"[" * 100_000),
        Response(404, rb'{"message": "\ud800 \u001b[2J \u0000"}'),
        Response(404, b'{"message": {"a": ' + b"[" * 5000),
        error(503, Retry_After="9" * 400),
        error(503, Retry_After="Mon, 01 Jan 0001 00:00:00 +2359"),
    ],
)
def test_odd_response_of_one_city_does_not_stop_the_others(tmp_path: Path, odd: Response) -> None:
    environment = GOOD | NO_POSTGRES | {"WEATHER_DATA": str(tmp_path), "OPENWEATHER_CONCURRENCY": "1"}
    with serve([OK, odd, OK]) as stub:
        done = run(environment | {"OPENWEATHER_BASE_URL": stub.url, "WEATHER_CITIES": '["A", "B", "C"]'})
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["spooled"] + summary["failed"] == 3
    assert summary["spooled"] >= (1 if odd.status == 401 else 2)
    assert "Traceback" not in done.stderr
    assert not set(done.stderr) & set("\0\x1b")
    for segment in (tmp_path / "spool").glob("*.rows"):
        assert b"\0" not in segment.read_bytes()
    assert run(environment, "--last").returncode == EXIT.failed


def test_unforeseen_error_of_one_city_is_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OverflowError("a surprise")

    monkeypatch.setattr(ingest_weather, "parse_observation", fail)
    with serve([OK]) as stub:
        result = ingest_weather._fetch_city(client(stub.url, Clock()), CITY)
    assert result == ingest_weather.Fetched("Newark,US", error="internal error: OverflowError")


def test_damaged_summary_of_the_last_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "last_ingest.json").write_text('{"failed": ')
    last = run({"WEATHER_DATA": str(tmp_path)}, "--last")
    assert (last.returncode, last.stderr[:52]) == (EXIT.failed, "error: cannot read the summary of the last run: Expe")


@pytest.mark.parametrize("seed", range(20))
def test_random_responses_are_stored_or_refused_with_a_printable_reason(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    good, reasons = json.loads(RESPONSE), list[str]()
    for _ in range(200):
        body = odd_json.dumped(odd_json.mutate(chance, good, chance.randint(0, 3))).encode()
        if chance.random() < 0.2:
            body = odd_json.damage(chance, body)
        try:
            text, dt = parse_observation(body, now=1_700_000_000)
        except InvalidResponse as error:
            line = spool.quarantine_line("A", "metric", str(error), error.body)
            reasons.append(str(error))
        else:
            line = spool.observation_line("A", "metric", dt, text)
        assert not spool.is_damaged(line)
        assert line.endswith(b"\n")
    assert "".join(reasons).isprintable()


def test_without_a_run_there_is_no_last_one(tmp_path: Path) -> None:
    last = run({"WEATHER_DATA": str(tmp_path)}, "--last")
    assert (last.returncode, last.stderr) == (EXIT.failed, "error: there has been no run yet\n")


def test_spool_keeps_its_size_limit(tmp_path: Path) -> None:
    with serve([Response(body=b'{"dt": 1600000000, "main": {}, "x": "%s"}' % (b"x" * 600_000))]) as stub:
        done = run(
            GOOD
            | NO_POSTGRES
            | {
                "OPENWEATHER_BASE_URL": stub.url,
                "WEATHER_CITIES": '["A", "B", "C", "D"]',
                "WEATHER_DATA": str(tmp_path),
                "OPENWEATHER_CONCURRENCY": "1",
                "WEATHER_SPOOL_MEGABYTES": "1",
            }
        )
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["spooled"], summary["failed"]) == (1, 3)
    assert all("MiB wait for PostgreSQL" in reason for reason in summary["errors"].values())
    assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) < 1 << 20


def test_full_disk_leaves_no_partial_line(tmp_path: Path) -> None:
    environment = (
        GOOD
        | NO_POSTGRES
        | {"WEATHER_DATA": str(tmp_path), "WEATHER_CITIES": '["A", "B", "C"]', "OPENWEATHER_CONCURRENCY": "1"}
    )
    long = Response(body=b'{"dt": 1600000000, "main": {}, "x": "%s"}' % (b"x" * 5000))
    with serve([OK, long]) as stub:
        # The limit of 4 KiB per file holds for bytecode, too: -B writes none, which other tests would import.
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
    assert "no space left" in summary["errors"]["B"]
    (segment,) = (tmp_path / "spool").glob("*.rows")
    assert segment.read_bytes().count(b"\n") == segment.read_bytes().count(b"imperial") == 1


@pytest.mark.parametrize("text", ["plain", "tab\there", "line\nbreak\r", "back\\slash", r"\n", r"\\t", "Zürich", ""])
def test_unescape_reverses_escape(text: str) -> None:
    assert spool.unescape(spool.escape(text).encode()).decode() == text
    assert not set(spool.escape(text)) & set("\t\n\r")


@pytest.mark.parametrize(
    ("line", "damaged"),
    [
        (b"1600000000\tA\timperial\t{}\n", False),
        (b"\tA\tmetric\t2026-01-01T00:00:00+00:00\t1\treason\t00\n", False),
        (b"no tabs\n", True),
        (b"\n", True),
        (b"1600000000\tA\timperial\n", True),
        (b"x\tA\timperial\t{}\n", True),
        (b"1600000000\tA\timperial\t\xff\n", True),
        (b"\tA\timperial\n", True),
    ],
)
def test_damaged_line_is_reported_and_quarantined(
    tmp_path: Path, line: bytes, damaged: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b"1600000000\tB\timperial\t{}\n"
    (tmp_path / "1.rows").write_bytes(good + line + good)
    (segment,) = spool.Spool(tmp_path, 1 << 20).abandoned()
    first, second, third = segment.read()
    assert (first, third) == (good, good)
    assert (second != line) == damaged
    assert ("1.rows: line 2 is damaged" in capsys.readouterr().err) == damaged
    if damaged:
        assert bytes.fromhex(second.rstrip().split(b"\t")[-1].decode()) == line


def test_file_of_the_spool_that_cannot_be_read_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1.rows").mkdir()
    (tmp_path / "2.rows").symlink_to("2.rows")
    (tmp_path / "3.rows").symlink_to("missing")
    (tmp_path / "4.rows").write_bytes(b"1600000000\tB\timperial\t{}\n")
    assert [segment.path.name for segment in spool.Spool(tmp_path, 1 << 20).abandoned()] == ["4.rows"]
    errors = capsys.readouterr().err
    assert "1.rows: Is a directory" in errors
    assert "2.rows: Too many levels of symbolic links" in errors


def test_each_quarantined_response_has_its_own_time_of_receipt() -> None:
    times = [spool.quarantine_line("A", "metric", "", b"").split(b"\t")[3] for _ in range(2000)]
    assert times == sorted(set(times))


def test_segment_is_locked_by_its_writer_and_found_when_that_has_died(tmp_path: Path) -> None:
    writer, other = spool.Spool(tmp_path, 1 << 20), spool.Spool(tmp_path, 1 << 20)
    writer.add(b"1\tA\timperial\t{}\n")
    segment = writer.detach()
    assert segment is not None
    assert list(other.abandoned()) == []
    os.write(segment.descriptor, b"2\tB\timper")  # as a kill within a line leaves it
    os.close(segment.descriptor)
    (found,) = other.abandoned()
    assert (found.own, found.read()) == (False, [b"1\tA\timperial\t{}\n"])
    assert list(spool.Spool(tmp_path, 1 << 20).abandoned()) == [], "two runs hold the same segment"
    other.remove(found)
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
        ("c.csv", '\ufeff"name","id"\r\n"Newark,US","5"\r\n', [City(name="Newark,US", id=5)]),
        ("c.csv", 'id,name\n5,"say ""hi"""\n', [City(name='say "hi"', id=5)]),
        ("c.csv", 'name,id\r\n"New\r\nYork",5\r\nB,6', [City(name="New\r\nYork", id=5), City(name="B", id=6)]),
        ("c.csv", "name\nA\u2028B\x0b\x85C\n", [City(name="A\u2028B\x0b\x85C")]),
        ("c.csv", "name\n\nA\n\n", [City(name="A")]),
        ("c.csv", "name,timezone\nA,Europe/Berlin\nB,\n", [City(name="A", timezone="Europe/Berlin"), City(name="B")]),
    ],
)
def test_cities_are_read_from_a_file(tmp_path: Path, name: str, text: str, found: list[City]) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert cities.read_cities(tmp_path / name) == found
    assert run({}, "--check", str(tmp_path / name)).stdout == f"{len(found)} cities\n"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "", "the first line must name the columns"),
        ("c.csv", "city\nA\n", "the first line must name the columns"),
        ("c.csv", "name\n", "at least one city"),
        ("c.csv", 'name\nA\n"B', "c.csv: line 3: unexpected end of data"),
        ("c.csv", 'name\nA\n"B"x\n', "c.csv: line 3: "),
        ("c.csv", 'name,id\n"A\nB",1\nC,x\n', "c.csv: line 4: C: invalid id 'x'"),
        ("c.csv", "name,name\nA,B\n", "the first line must name the columns"),
        ("c.csv", "name;id\nA;5\n", "the first line must name the columns"),
        ("c.csv", "name,timezone\nA,Berlin\n", "A: invalid timezone 'Berlin'; it must be a name such as Europe/Berlin"),
        ("c.csv", "name\nA\0\n", "c.csv: line 2: "),
        ("c.json", r'["\ud800"]', "is not a name"),
        ("c.csv", "name\nA,B\n", "line 2: has more values than columns"),
        ("c.csv", "name,id\nA,x\n,5\n", "line 2: A: invalid id 'x'; c.csv: line 3: \"{'id': 5}\" needs a name"),
        ("c.csv", "name,latitude,longitude\nA,91,0\n", "A: invalid latitude 91.0"),
        ("c.csv", "name,latitude,longitude\nA,nan,0\n", "A: invalid latitude 'nan'"),
        ("c.csv", "name,latitude,longitude\nA,1_0,0\n", "A: invalid latitude '1_0'"),
        ("c.csv", "name,id\nA,1_000\n", "A: invalid id '1_000'"),
        ("c.csv", "name,id\nA,١٢٣\n", "A: invalid id '١٢٣'"),
        ("c.csv", f"name,id\nA,{'9' * 5000}\n", "A: invalid id '999"),
        ("c.csv", "name,latitude\nA,9\n", "A has one coordinate"),
        ("c.csv", "name\nA\nB\nA\n", "duplicate names 'A'"),
        ("c.csv", "name\n" + "x" * 201 + "\n", "longer than 200 characters"),
        ("c.csv", "name\n" + "".join(f"c{n}\n" for n in range(200_001)), "more than 200000 cities"),
        ("c.json", "{", "c.json is not JSON"),
        ("c.json", '{"name": "A"}', "a list of at least one city"),
    ],
)
def test_invalid_file_of_cities_is_refused_with_the_reason(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(cities.CitiesError) as caught:
        cities.read_cities(tmp_path / name)
    assert message in str(caught.value)


def run(environment: Mapping[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script with only these variables in its environment."""
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "ingest_weather.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"], **environment},
    )
