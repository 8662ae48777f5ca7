"""The receiver of a weather station on loopback: real HTTP requests, a real PostgreSQL."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.waiting import until, until_started
from tests.scripts import SCHEMA, script
from tests.unit.test_ecowitt import FORM, PASSKEY


@dataclass
class Receiver:
    """A receiver with its database; `database_port` is that of PostgreSQL, or of nothing."""

    server: pg.Server
    folder: Path
    port: int

    @contextmanager
    def running(self, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run the receiver, and wait until it answers."""
        variables = {
            **{key: os.environ[key] for key in ("PATH", "PYTHONPATH")},
            **self.server.environment("station", "station", "station"),
            "STATION_CITY": "Garden",
            "STATION_LATITUDE": "48.1",
            "STATION_LONGITUDE": "11.5",
            "STATION_PASSKEY": PASSKEY,
            "STATION_TIMEZONE": "Europe/Berlin",
            "STATION_HOST": "127.0.0.1",
            "STATION_PORT": str(self.port),
            "STATION_DATA": str(self.folder),
            "WEATHER_SCHEDULE": "@hourly",
            **environment,
        }
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, script("station.py")], env=variables, stdout=log, stderr=log)
        try:
            address = ("127.0.0.1", self.port)
            until_started(process, lambda: socket.create_connection(address, 1).close(), log=self.folder / "log")
            yield process
        finally:
            process.kill()
            process.wait()

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Send a request; return the status and the text of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def post(self, at: float | None = None, **changes: str) -> tuple[int, str]:
        """Send a reading of a time, by default now."""
        when = datetime.fromtimestamp(at or time.time(), UTC).strftime("%Y-%m-%d %H:%M:%S")
        return self.request("POST", "/data/report/", urlencode({**FORM, "dateutc": when, **changes}).encode())

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the superuser."""
        with self.server.connect("station") as connection:
            return connection.execute(sql.encode()).fetchall()

    def rows(self, table: str = "weather_observations") -> int:
        """Return the number of rows of a table."""
        return int(self.query(f"select count(*) from raw.{table}")[0][0])  # noqa: S608


@pytest.fixture
def receiver(postgres: pg.Server, tmp_path: Path) -> Iterator[Receiver]:
    with postgres.role("station", "station"), postgres.database("station") as database:
        with postgres.connect(database) as connection:
            connection.execute(SCHEMA.read_bytes())
            connection.execute(raw_grants(DatabaseGrant(database, "station", "append", "raw")).sql.encode())
        yield Receiver(postgres, tmp_path, pg.free_port())


def test_reading_is_in_raw_and_in_weather_now(receiver: Receiver) -> None:
    with receiver.running():
        assert receiver.post() == (200, "stored\n")
        until(lambda: receiver.rows() == 1)
        assert receiver.request("GET", "/health") == (200, "works\n")
    ((city, units, source, temperature),) = receiver.query(
        "select city, units, data ->> 'source', data -> 'main' ->> 'temp' from raw.weather_observations limit 1"
    )
    assert (city, units, source, temperature) == ("Garden", "imperial", "station", "47.8")
    ((city, source, celsius, pressure),) = receiver.query(
        "select city, source, round(temperature_c::numeric, 3), pressure_hpa from raw.weather_now"
    )
    assert (city, source, float(celsius), pressure) == ("Garden", "station", 8.778, 1001.19)
    assert receiver.query("select city, timezone from raw.city_settings") == [("Garden", "Europe/Berlin")]
    assert PASSKEY not in (receiver.folder / "log").read_text()


def test_wrong_requests_are_refused_and_stop_nothing(receiver: Receiver) -> None:
    cases: list[tuple[tuple[Any, ...], dict[str, str], int]] = [
        (("GET", "/"), {}, 404),
        (("POST", "/other", b"a=1"), {}, 404),
        (("POST", f"/data/report/?PASSKEY={PASSKEY}", b"a=1"), {}, 404),
        (("POST", "/data/report/", b"PASSKEY=wrong&tempf=1"), {}, 403),
        (("POST", "/data/report/", b"x" * 20_000), {}, 413),
        (("POST", "/data/report/", None), {"Content_Length": "99999999999999999999"}, 413),
        (("POST", "/data/report/", None), {"Content_Length": "00000000000000000009"}, 413),
        (("POST", "/data/report/", None), {"Content_Length": "-1"}, 411),
        (("POST", "/data/report/", None), {"Content_Length": "\xb2"}, 411),
        (("POST", "/data/report/", None), {"Transfer_Encoding": "chunked", "Content_Length": ""}, 411),
        (("PUT", "/data/report/", b"a=1"), {}, 501),
    ]
    with receiver.running():
        for words, headers, status in cases:
            assert receiver.request(*words, **headers)[0] == status, (words, headers)
        for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /data/report/ HTTP/1.1\r\nA" * 3, b""):
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as raw:
                raw.sendall(garbage)
        assert receiver.post(tempf="warm") == (400, "tempf is not a number\n")
        assert receiver.post()[0] == 200
        until(lambda: receiver.rows() == 1 and receiver.rows("quarantine") == 1)
    ((reason, body),) = receiver.query("select reason, convert_from(body, 'UTF8') from raw.quarantine")
    assert reason == "tempf is not a number"
    assert "tempf=warm" in body
    log = (receiver.folder / "log").read_text()
    assert "Traceback" not in log
    assert PASSKEY not in log + body


def test_readings_wait_for_postgresql_and_survive_a_kill(receiver: Receiver) -> None:
    now = int(time.time())
    with receiver.running(PGPORT="1") as process:
        assert [receiver.post(now - number)[0] for number in range(30)] == [200] * 30
        until(lambda: receiver.request("GET", "/health")[0] == 503)
        assert len(os.listdir(f"/proc/{process.pid}/fd")) < 30, "a file is open for each reading"
    with receiver.running():
        assert receiver.post(now - 5)[0] == 200  # sent again
        until(lambda: receiver.rows() == 30)
        until(lambda: json.loads((receiver.folder / "state.json").read_text())["stored"] == 30)
        until(lambda: not list((receiver.folder / "spool").glob("*.rows")))  # the repeated one may be stored last


def test_a_flood_of_connections_is_closed(receiver: Receiver) -> None:
    with receiver.running():
        idle = [socket.create_connection(("127.0.0.1", receiver.port), timeout=30) for _ in range(40)]
        until(lambda: _posted(receiver))
        for each in idle:
            each.close()


def _posted(receiver: Receiver) -> bool:
    """Send a reading; return False if the connection was closed."""
    try:
        return receiver.post()[0] == 200
    except OSError:
        return False
    except http.client.HTTPException:
        return False
