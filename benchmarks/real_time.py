"""Benchmark of the real-time path: `python -m benchmarks.real_time [seconds]`. PostgreSQL 16 with fsync on.

The stream fetches from an OpenWeather on this machine, which records the time of each response. Two connections poll
the raw table and `weather_now` for the responses. The reference is an INSERT of the same row, with its COMMIT.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from benchmarks.broker import consumer, deployed_for_a_consumer
from benchmarks.table import Row, print_table
from tests.integration import pg
from tests.integration.nats_server import nats_server
from tests.scripts import SCRIPTS

_CITIES, _EVERY = 60, 5  # seconds
_AIM = 2.0  # seconds, 95th percentile
_PAUSE = 0.01  # seconds between two looks
_FIRST = 1_700_000_000
Key = tuple[str, int]


class Sky(ThreadingHTTPServer):
    """An OpenWeather whose responses are all new; `sent` has the time of each."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.sent, self.lock = dict[Key, float](), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Answer(BaseHTTPRequestHandler):
    server: Sky

    def do_GET(self) -> None:
        """Answer like OpenWeather."""
        city = parse_qs(urlsplit(self.path).query)["id"][0]
        with self.server.lock:
            dt = _FIRST + len(self.server.sent)
            self.server.sent[f"C{city}", dt] = time.monotonic()
        body = {"dt": dt, "main": {"temp": 20.5, "humidity": 60, "pressure": 1013}, "wind": {"speed": 3}, "name": city}
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class Watcher:
    """A connection that looks for new rows; `seen` has the time of the first look with each."""

    def __init__(self, server: pg.Server, database: str, sql: str) -> None:
        self._server, self._database, self._sql = server, database, sql
        self.seen, self._stop = dict[Key, float](), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._server.connect(self._database) as connection:
            while not self._stop.is_set():
                newest = max((dt for _, dt in self.seen), default=0) - 10 * _CITIES
                rows = connection.execute(self._sql.encode(), {"newest": newest}).fetchall()
                now = time.monotonic()
                for city, dt in rows:
                    self.seen.setdefault((str(city), int(str(dt))), now)
                time.sleep(_PAUSE)

    def stop(self) -> None:
        """End the looks."""
        self._stop.set()
        self._thread.join()


_RAW = (
    "select city, data ->> 'dt' from raw.weather_observations "
    "where ingested_at > now() - interval '10 s' and (data ->> 'dt')::bigint > %(newest)s"
)
_NOW = (
    "select city, extract(epoch from observation_timestamp)::bigint from raw.weather_now where %(newest)s is not null"
)


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def measure(
    server: pg.Server, database: str, seconds: float, environment: Mapping[str, str], way: str
) -> Iterator[Row]:
    """Run the stream for a time, and compare the times of each response."""
    sky = Sky()
    watchers = [Watcher(server, database, sql) for sql in (_RAW, _NOW)]
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            **os.environ,
            **server.environment(database, "analytics", "analytics"),
            "WEATHER_DATA": folder,
            "WEATHER_CITIES": json.dumps([{"name": f"C{number}", "id": number} for number in range(1, _CITIES + 1)]),
            "WEATHER_EVERY": str(_EVERY),
            "OPENWEATHER_BASE_URL": f"http://127.0.0.1:{sky.server_port}",
            "OPENWEATHER_API_KEY": "key",
            "OPENWEATHER_RATE_LIMIT": "0",
            "OPENWEATHER_UNITS": "metric",
            **environment,
        }
        process = subprocess.Popen([sys.executable, str(SCRIPTS / "stream_weather.py")], env=variables)
        time.sleep(seconds)
        process.terminate()
        process.wait(30)
        time.sleep(2)  # for the looks
    for watcher in watchers:
        watcher.stop()
    sky.shutdown()
    raw, now = (watcher.seen for watcher in watchers)
    lost = len(sky.sent) - len(raw)
    assert not lost, f"{lost} of {len(sky.sent)} responses are not in raw"  # noqa: S101
    to_raw = [raw[key] - sent for key, sent in sky.sent.items()]
    to_now = [max(0.0, now[key] - raw[key]) for key in sky.sent if key in now]
    insert = _insert(server, database)
    for title, values in (("in raw", to_raw), ("from raw to weather_now", to_now)):
        shown = f"p95 {p95(values):.2f} s, median {statistics.median(values):.2f} s, longest {max(values):.2f} s"
        yield Row(
            f"{title}, {way}, {len(values)} responses",
            shown,
            f"an INSERT {insert * 1000:.1f} ms",
            "",
            f"p95 ≤ {_AIM:.0f} s",
            p95(values) <= _AIM,
        )


def _insert(server: pg.Server, database: str) -> float:
    """Return the median of the seconds for an INSERT with its COMMIT."""
    taken = []
    with server.connect(database, "analytics", "analytics") as connection:
        for number in range(50):
            data = json.dumps({"dt": _FIRST - number, "main": {"temp": 20.5}})
            started = time.perf_counter()
            connection.execute("insert into raw.weather_observations (city, data) values ('reference', %s)", (data,))
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def both_ways(server: pg.Server, database: str, seconds: float, folder: Path) -> Iterator[Row]:
    """Measure the way to PostgreSQL itself, and the one through the broker."""
    yield from measure(server, database, seconds, {}, "direct")
    with server.connect(database) as connection:
        connection.execute("truncate raw.weather_observations")
    with ExitStack() as resources:
        broker = resources.enter_context(nats_server(folder / "nats", disk=1 << 30))
        process = consumer(server, database, broker, folder)
        resources.callback(process.wait)
        resources.callback(process.terminate)
        environment = {**broker.environment("ingestion"), "WEATHER_TO": "broker"}
        yield from measure(server, database, seconds, environment, "through the broker")


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    with deployed_for_a_consumer() as (server, database), tempfile.TemporaryDirectory() as folder:
        print_table(both_ways(server, database, seconds, Path(folder)))


if __name__ == "__main__":
    main()
