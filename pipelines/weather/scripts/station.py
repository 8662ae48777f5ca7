"""Receive the readings of a weather station over HTTP and append them to raw.weather_observations.

The station posts Ecowitt's form to /data/report/: see ecowitt.py. A reading is in the spool on disk before it is
answered with 200, and in PostgreSQL at once, or when PostgreSQL is back. Readings that are not valid are answered with
400 and kept in raw.quarantine. The variables are libpq's, WEATHER_SCHEDULE, and those in `main`. The state is in
state.json, the counters in metrics.prom, both in STATION_DATA.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any

import psycopg
from atomic_file import replace_text
from contract import EXIT, Parser
from ecowitt import UNITS, InvalidReading, Station, WrongPasskey
from raw_tables import Batch, Connection, connect, record_settings, store
from spool import Segment, Spool, SpoolFull, observation_line, quarantine_line

PATHS = ("/data/report", "/data/report/")
_HEALTH = "/health"
_MAX_BODY = 16 << 10  # bytes; a real form has about 600
_MAX_CONNECTIONS = 16
_DIGITS = len(str(_MAX_BODY))
_TIMEOUT, _DEADLINE = 10.0, 20.0  # seconds without a byte, and of a whole request
_RETRY_AFTER = 5.0  # seconds between attempts to connect
_SPOOL = 256 << 20  # bytes


class Store:
    """The spool of the readings, and the thread that stores them as soon as PostgreSQL is reachable."""

    def __init__(self, folder: Path, schedule: str, timezones: Mapping[str, str | None]) -> None:
        self._folder, self._schedule, self._timezones = folder, schedule, timezones
        self._spool, self._lock, self._arrived = Spool(folder / "spool", _SPOOL), threading.Lock(), threading.Event()
        self._waiting = list(self._spool.abandoned())
        self._connection: Connection | None = None
        self.problem = ""
        self._counts = dict.fromkeys(("stored", "unchanged", "quarantined"), 0)
        self._last_reading: float | None = None  # Unix seconds
        threading.Thread(target=self._run, daemon=True).start()
        self._arrived.set()

    def add(self, line: bytes, *, quarantined: bool = False) -> None:
        """Write a line to the spool. Raises SpoolFull."""
        with self._lock:
            self._spool.add(line, quarantined=quarantined)
            if not quarantined:
                self._last_reading = time.time()
        self._arrived.set()

    def _run(self) -> None:
        while True:
            self._arrived.wait(_RETRY_AFTER if self.problem else None)
            self._arrived.clear()
            try:
                self._store_all()
                self._report("")
            except Exception as error:  # noqa: BLE001 - the readings wait, and `homelab status` shows the reason
                known = isinstance(error, psycopg.Error | OSError)
                self._report(" ".join(str(error).split())[:500] if known else f"internal error: {type(error).__name__}")
                self._close()
                time.sleep(_RETRY_AFTER)
                self._arrived.set()

    def _store_all(self) -> None:
        """Store the segments of the spool. Raises psycopg.Error and OSError, and keeps those that are not stored."""
        if self._connection is None:
            self._connection = connect("weather_station")
            record_settings(self._connection, self._schedule, self._timezones)
        while segment := self._next():
            result = store(self._connection, Batch.of(segment.read()))
            for name in self._counts:
                self._counts[name] += getattr(result, name)
            with self._lock:
                self._spool.remove(segment)
                self._waiting.remove(segment)

    def _next(self) -> Segment | None:
        """Return a waiting segment, else the open one. While a segment waits, all new readings go to the open one."""
        with self._lock:
            if not self._waiting and (segment := self._spool.detach()):
                self._waiting.append(segment)
            return self._waiting[0] if self._waiting else None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _report(self, problem: str) -> None:
        """Write the state and the metrics; name a new problem on standard error."""
        if problem != self.problem:
            print(f"error: {problem}" if problem else "works again", file=sys.stderr, flush=True)
        self.problem = problem
        state = {**self._counts, "problem": problem, "last_reading": self._last_reading}
        metrics = [f"homelab_station_{name}_total {number}\n" for name, number in self._counts.items()]
        if self._last_reading is not None:
            metrics.append(f"homelab_station_last_reading_timestamp_seconds {self._last_reading:.0f}\n")
        for name, text in (("state.json", json.dumps(state)), ("metrics.prom", "".join(metrics))):
            try:
                replace_text(self._folder / name, text)
            except OSError:  # a full disk must not stop the receiver
                return


class Server(ThreadingHTTPServer):
    """The receiver of one station, with a limit of connections: a further one is closed."""

    daemon_threads = True
    request_queue_size = _MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], station: Station, readings: Store) -> None:
        super().__init__(address, Handler)
        self.station, self.readings = station, readings
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Start a thread for the request, if one is free."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Handle the request within the deadline."""
        deadline = threading.Timer(_DEADLINE, _end, (request,))
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: object, client_address: Any) -> None:
        """Name an unforeseen error, such as a closed connection, in one line."""
        print(f"error: {client_address[0]}: {type(sys.exception()).__name__}", file=sys.stderr, flush=True)


def _end(request: socket | tuple[bytes, socket]) -> None:
    """End a connection, unless it is closed already."""
    if isinstance(request, socket):
        with suppress(OSError):
            request.shutdown(SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One request. No log has its path or its body, which could contain the passkey."""

    server: Server
    timeout = _TIMEOUT
    server_version, sys_version = "homelab-station", ""

    def do_GET(self) -> None:
        """Report whether PostgreSQL stores the readings."""
        if self.path != _HEALTH:
            self._answer(HTTPStatus.NOT_FOUND, "not found")
        elif self.server.readings.problem:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "PostgreSQL is away: readings wait in the spool")
        else:
            self._answer(HTTPStatus.OK, "works")

    def do_POST(self) -> None:
        """Receive a reading."""
        if self.path not in PATHS:
            self._answer(HTTPStatus.NOT_FOUND, "not found")
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._answer(HTTPStatus.LENGTH_REQUIRED, "needs the length of the form")
        elif len(length) > _DIGITS or int(length) > _MAX_BODY:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a form has at most {_MAX_BODY} bytes")
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                self._answer(*self._take(body))

    def _take(self, body: bytes) -> tuple[HTTPStatus, str]:
        """Store a form in the spool; return the answer."""
        station, readings = self.server.station, self.server.readings
        try:
            text, dt = station.observation(body, time.time())
            readings.add(observation_line(station.city, UNITS, dt, text))
        except WrongPasskey:
            return HTTPStatus.FORBIDDEN, "wrong passkey"
        except InvalidReading as error:
            try:
                readings.add(quarantine_line(station.city, UNITS, str(error), error.body), quarantined=True)
            except SpoolFull as full:
                return HTTPStatus.INSUFFICIENT_STORAGE, str(full)
            return HTTPStatus.BAD_REQUEST, str(error)
        except SpoolFull as full:
            return HTTPStatus.INSUFFICIENT_STORAGE, str(full)
        return HTTPStatus.OK, "stored"

    def _answer(self, status: HTTPStatus, text: str) -> None:
        if status >= HTTPStatus.BAD_REQUEST:
            print(f"{self.client_address[0]}: {status.value} {text}", file=sys.stderr, flush=True)
        self.close_connection = True
        content = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `_answer` names refused requests."""


def main() -> int:
    """Serve until SIGTERM; see the module's docstring."""
    Parser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    get = os.environ.__getitem__
    try:
        station = Station(
            city=get("STATION_CITY"),
            latitude=float(get("STATION_LATITUDE")),
            longitude=float(get("STATION_LONGITUDE")),
            passkey=get("STATION_PASSKEY"),
        )
        timezones = {station.city: os.environ.get("STATION_TIMEZONE") or None}
        folder, port = Path(get("STATION_DATA")), int(get("STATION_PORT"))
        schedule = get("WEATHER_SCHEDULE")
    except KeyError as error:
        print(f"error: {error.args[0]} is not set", file=sys.stderr)
        return EXIT.bad_input
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    with Server((os.environ.get("STATION_HOST", ""), port), station, Store(folder, schedule, timezones)) as server:
        server.serve_forever()
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
