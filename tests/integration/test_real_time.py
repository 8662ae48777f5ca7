"""The stream on loopback with a real PostgreSQL: rows, records of runs, `weather_now`, and the marts on top of it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.test_broker import Ledger
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.integration.waiting import until
from tests.scripts import SCHEMA, script

from contract import EXIT  # isort: skip

THREE = [{"name": f"C{number}", "id": number} for number in (1, 2, 3)]


@dataclass
class Stream:
    """A database with the roles of a deploy, and the ledger of an OpenWeather."""

    server: pg.Server
    database: str
    ledger: Ledger
    data: Path
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables of the scripts."""
        return {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
            **self.server.environment(self.database, "analytics", "analytics"),
            "DBT_PGUSER": "dbt",
            "DBT_PGPASSWORD": "dbt",
            "WEATHER_DATA": str(self.data),
            "WEATHER_CITIES": json.dumps(THREE),
            "WEATHER_EVERY": "1",
            "WEATHER_SCHEDULE": "*/30 * * * *",
            "OPENWEATHER_BASE_URL": self.ledger.url,
            "OPENWEATHER_API_KEY": "key",
            "OPENWEATHER_RATE_LIMIT": "0",
            "OPENWEATHER_UNITS": "metric",
        }

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the stream; kill it at the end, unless it has ended."""
        with (self.data / "log").open("ab") as log:
            words = [sys.executable, script("stream_weather.py")]
            process = subprocess.Popen(words, env=self.environment | environment, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the superuser."""
        with self.server.connect(self.database) as connection:
            return connection.execute(sql.encode()).fetchall()

    def stored(self) -> Counter[tuple[str, str]]:
        """Return the number of rows by city and time."""
        return Counter(self.query("select city, data ->> 'dt' from raw.weather_observations"))

    def is_exact(self) -> bool:
        """Check that each answer is stored once."""
        found = self.stored()
        return found.keys() == self.ledger.sent and set(found.values()) == {1}

    def state(self, name: str = "stream.json") -> dict[str, Any]:
        """Return a state that the stream wrote; an empty one before the first round."""
        path = self.data / name
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def rounds(self, number: int) -> None:
        """Wait until further rounds have ended."""
        for _ in range(number):
            last = self.state().get("round")
            until(lambda last=last: self.state().get("round") != last)  # type: ignore[misc]

    def now(self, sql: str, expect: int = 0) -> Any:
        """Return the rows of query_now.py, or its error."""
        words = [str(self.python), script("query_now.py"), sql]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stderr
        return done.stderr if expect else json.loads(done.stdout)


@pytest.fixture
def live(postgres: pg.Server, analytics_python: Path, tmp_path: Path) -> Iterator[Stream]:
    ledger = Ledger()
    with postgres.role("analytics", "analytics"), postgres.role("dbt", "dbt"), postgres.database("now") as database:
        with postgres.connect(database) as connection:
            connection.execute(SCHEMA.read_bytes())
            connection.execute(raw_grants(DatabaseGrant(database, "analytics", "append", "raw")).sql.encode())
            connection.execute(raw_grants(DatabaseGrant(database, "dbt", "read", "raw")).sql.encode())
        yield Stream(postgres, database, ledger, tmp_path, analytics_python)
    ledger.shutdown()
    ledger.server_close()


def test_rounds_of_a_period_are_one_run(live: Stream) -> None:
    with live.running() as process:
        live.rounds(2)
        live.ledger.dt += 600
        live.rounds(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == EXIT.success
    assert live.is_exact()
    assert len(live.stored()) == 6
    ((asked, stored, unchanged, requests, error),) = live.query(
        "select asked, stored, unchanged, requests, error from raw.ingestion_runs"
    )
    assert (stored, error) == (6, None)
    assert asked == requests == stored + unchanged >= 12
    assert live.query("select schedule from raw.schedules") == [("*/30 * * * *",)]
    assert live.query("select count(*) from raw.city_settings") == [(3,)]
    assert live.state("last_ingest.json")["asked"] == 3, "of one round"
    names = [line.split()[0] for line in (live.data / "stream.prom").read_text().splitlines()]
    assert "homelab_pipeline_stream_newest_row_timestamp_seconds" in names


def test_postgresql_and_openweather_go_away_and_come_back(live: Stream) -> None:
    with live.running(PGPORT="1") as process:
        live.rounds(1)
        assert live.state()["spooled"] == 3
        assert "PostgreSQL" in live.state()["problem"]
        process.kill()
        process.wait()
    live.ledger.dt += 600
    live.ledger.broken = {"2"}  # PostgreSQL refuses its response
    with live.running() as process:
        live.rounds(2)
        assert (live.state()["failed"], live.state()["spooled"], live.state()["problem"]) == (1, 0, None)
        process.send_signal(signal.SIGTERM)
        process.wait(10)
    assert live.is_exact(), "what the killed stream had spooled is stored, too"
    check = subprocess.run(
        [sys.executable, script("ingest_weather.py"), "--last"],
        env=live.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == EXIT.failed
    assert "C2" in check.stderr
    summary = live.state("last_ingest.json")
    (live.data / "last_ingest.json").write_text(json.dumps(summary | {"finished": "2026-01-01T00:00:00+00:00"}))
    check = subprocess.run(check.args, env=live.environment, capture_output=True, text=True, check=False)
    assert "the stream does not run" in check.stderr


def test_stream_beyond_the_rate_limit_does_not_start(live: Stream) -> None:
    with live.running(OPENWEATHER_RATE_LIMIT="60") as process:
        assert process.wait(10) == EXIT.bad_input
    assert "3 cities every 1 s are 180 requests a minute" in (live.data / "log").read_text()


def test_weather_now_has_the_newest_reading_of_each_city(live: Stream) -> None:
    with live.running() as process:
        live.rounds(1)
        live.ledger.dt += 600
        live.rounds(2)
        process.kill()
    newest = live.now("select * from weather_now order by city")
    assert [row["city"] for row in newest] == ["C1", "C2", "C3"]
    assert {row["observation_timestamp"] for row in newest} == {"2023-11-14T22:23:20+00:00"}
    assert (newest[0]["temperature_c"], newest[0]["temperature_f"]) == (pytest.approx(1.5), pytest.approx(34.7))
    assert newest[0]["source"] == "openweather"

    def insert(city: str, units: str | None, data: object, revision: int = 0) -> None:
        with live.server.connect(live.database, "analytics", "analytics") as connection:
            connection.execute(
                "insert into raw.weather_observations (city, units, data, revision) values (%s, %s, %s, %s)",
                (city, units, json.dumps(data), revision),
            )

    dt = live.ledger.dt
    insert("C1", "standard", {"dt": dt, "main": {"temp": 300}, "wind": {"speed": 2}}, 1)
    insert("C2", "imperial", {"dt": dt + 60, "main": {"temp": 50}, "wind": {"speed": 10, "gust": None}, "weather": []})
    insert("C3", "metric", {"dt": 999_999_999, "main": {"temp": 1}})  # of 2001: later as a text
    sql = "select city, round(temperature_c::numeric, 2) as c, round(wind_speed_ms::numeric, 2) as w from weather_now"
    assert live.now(f"{sql} order by 1") == [
        {"city": "C1", "c": 26.85, "w": 2.0},
        {"city": "C2", "c": 10.0, "w": 4.47},
        {"city": "C3", "c": 1.5, "w": None},
    ]
    insert("C3", "imperial", {"dt": dt + 60, "main": {"temp": 1.7e308, "humidity": "x"}, "wind": {"speed": 5e-324}})
    assert live.now(f"{sql} where city = 'C3'") == [{"city": "C3", "c": None, "w": 0.0}]
    with live.server.connect(live.database) as connection:
        connection.execute(
            "insert into raw.exclusion_entries (city, first, until, reason, excluded_by) "
            "values ('C2', to_timestamp(%s), to_timestamp(%s), 'frozen', 'me')",
            (dt + 60, dt + 61),
        )
    assert live.now("select temperature_c as c from weather_now where city = 'C2'") == [{"c": pytest.approx(1.5)}]


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select nothing from weather_now", 'column "nothing" does not exist'),
        ("delete from raw.city_settings", "read-only transaction"),
        ("select 1; select 2", "multiple commands"),
        ("insert into weather_observations (city, data) values ('x', '{}')", "read-only transaction"),
    ],
)
def test_query_of_now_only_reads(live: Stream, sql: str, error: str) -> None:
    assert error in live.now(sql, expect=EXIT.bad_input)


def test_rows_of_the_stream_and_of_hourly_runs_count_once(stack: Stack) -> None:
    ledger = Ledger()
    stack.base_url = ledger.url
    variables = {"WEATHER_CITIES": json.dumps(THREE), "WEATHER_EVERY": "1", "OPENWEATHER_RATE_LIMIT": "0"}

    def hourly() -> dict[str, Any]:
        done = stack.script("ingest_weather.py", **variables)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    @contextmanager
    def stream() -> Iterator[None]:
        words, finished = [str(stack.python), script("stream_weather.py")], len(ledger.sent)
        state = stack.data / "stream.json"
        state.unlink(missing_ok=True)
        process = subprocess.Popen(words, env={**stack.environment, **variables})
        until(state.exists)
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == EXIT.success
        assert len(ledger.sent) >= finished

    try:
        stack.script("build_due.py")  # before the first build
        with stream():
            pass
        assert hourly()["unchanged"] == 3
        stack.build()
        stack.script("build_due.py", expect=EXIT.not_due)
        ledger.dt += 3600
        assert hourly()["stored"] == 3
        with stream():
            ledger.dt += 600
            hourly()
        stack.script("build_due.py")
        stack.script("build_due.py", expect=EXIT.not_due, WEATHER_BUILD_ROWS="7")
        stack.script("build_due.py", WEATHER_BUILD_ROWS="6")
        with (stack.data / "build.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert "a build is running" in stack.script("build_due.py", expect=EXIT.not_due).stdout
        stack.script("build_due.py", expect=EXIT.failed, PGPORT="1")
        stack.build()
    finally:
        ledger.shutdown()
        ledger.server_close()
    assert Counter((city, str(data["dt"])) for city, data in stack.raw()) == Counter(ledger.sent)
    tables = ("stg_weather", "weather_hourly", "weather_daily", "weather_completeness")
    increments = {name: stack.table(name) for name in tables}
    assert len(increments["stg_weather"]) == len(ledger.sent) == 9
    assert increments["weather_hourly"]["observations"].sum() == 9
    stack.build("--full-refresh")
    stack.script("build_due.py", expect=EXIT.not_due)
    for name, increment in increments.items():
        pd.testing.assert_frame_equal(stack.table(name), increment, rtol=1e-12)
