"""Fetch the current weather of each city every WEATHER_EVERY seconds, until SIGTERM: the service of `schedule: stream`.

A round is a run of ingest_weather.py, with the same variables and the same way through the spool to PostgreSQL or the
broker; its rows are handed over within a second. In raw.ingestion_runs, the rounds of an hour are one run: a row
for each round would be 1,440 a day. After each round, last_ingest.json has its summary, stream.json the state of the
stream, and stream.prom the metrics.

Exit status: 0 stopped, 8 invalid settings.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from atomic_file import replace_text
from contract import EXIT, Parser
from ingest_settings import Settings, SettingsError, read_integer, read_settings
from ingest_weather import retry_policy, run, save_summary, sink_of, summary_text
from loader import RunSummary
from openweather import RateLimit
from raw_tables import Batch, StoreResult
from run_counters import RunCounters
from sinks import Sink, SinkError

_PERIOD = 3600.0  # seconds of rounds in one record
_FLUSH_INTERVAL = 0.5  # seconds
_BROKER_WAIT = 2.0  # seconds for the broker's consumer at the end of a round


class PeriodSink:
    """A destination that records all rounds of a period, in seconds, as one run."""

    def __init__(self, sink: Sink, period: float = _PERIOD) -> None:
        self._sink, self._period = sink, period
        self._recorded = False  # the counters of this round are in those of the period
        self._begin()

    def _begin(self) -> None:
        self._run, self._started, self._total = uuid4(), datetime.now(UTC), RunCounters()

    def connect(self, run: UUID, started: datetime) -> None:
        """Connect, and record the start of the period, at most once."""
        self._sink.connect(self._run, self._started)

    def store(self, batch: Batch) -> StoreResult:
        """Store a batch."""
        return self._sink.store(batch)

    def record_end(self, run: UUID, counters: RunCounters, error: str | None) -> None:
        """Add the counters of a round; record the end of the period if it is over."""
        self._add(counters)
        if (datetime.now(UTC) - self._started).total_seconds() >= self._period:
            self._sink.record_end(self._run, self._total, error)
            self._begin()

    def waiting(self) -> int:
        """Return the number of rows that were handed over and are not in PostgreSQL yet."""
        return self._sink.waiting()

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._sink.close()

    def end_round(self, counters: RunCounters) -> None:
        """Add the counters of a round that could not record its end."""
        if not self._recorded:
            self._add(counters)
        self._recorded = False

    def finish(self) -> None:
        """Record the end of the last period, if the destination is reachable."""
        try:
            self._sink.connect(self._run, self._started)
            self._sink.record_end(self._run, self._total, None)
        except SinkError as error:
            print(f"error: {error}", file=sys.stderr)
        self._sink.close()

    def _add(self, counters: RunCounters) -> None:
        self._recorded = True
        names = [each.name for each in fields(RunCounters)]
        self._total = RunCounters(*(getattr(self._total, name) + getattr(counters, name) for name in names))


class StreamState:
    """The state of the stream for `homelab status` and the metrics; the time of the newest row survives a restart.

    Before the first row, it is the time of the first start: a source without any row is late, too.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._newest_row = float(json.loads((folder / "stream.json").read_text())["newest_row"])
        except (OSError, ValueError, LookupError, TypeError):
            self._newest_row = time.time()

    def save(self, summary: RunSummary) -> None:
        """Write the state after a round."""
        now = time.time()
        if summary.stored or summary.recovered:
            self._newest_row = now
        state: dict[str, Any] = {
            "round": now,  # Unix seconds, as the next one
            "newest_row": self._newest_row,
            **{name: getattr(summary, name) for name in ("asked", "failed", "spooled", "waiting", "problem")},
        }
        metrics = {
            "round_timestamp_seconds": now,
            "failed_cities": summary.failed,
            "newest_row_timestamp_seconds": self._newest_row,
        }
        lines = [f"homelab_pipeline_stream_{name} {value:.0f}\n" for name, value in metrics.items()]
        for name, text in (("stream.json", json.dumps(state)), ("stream.prom", "".join(lines))):
            try:
                replace_text(self._folder / name, text)
            except OSError as error:  # a full disk must not stop the stream
                print(f"error: cannot write {name}: {error.strerror}", file=sys.stderr)


def read_every(environment: Mapping[str, str], settings: Settings) -> float:
    """Return the seconds between two rounds. Raises SettingsError, also if the rate limit does not allow them."""
    every, cities = read_integer(environment, "WEATHER_EVERY", None, low=1, high=3600), len(settings.cities)
    if settings.rate_limit and cities * 60 > settings.rate_limit * every:
        raise SettingsError(
            f"{cities} cities every {every} s are {cities * 60 / every:.0f} requests a minute, and "
            f"OPENWEATHER_RATE_LIMIT allows {settings.rate_limit}"
        )
    return every


def stream(settings: Settings, every: float, stop: threading.Event) -> None:
    """Run a round every `every` seconds, or as soon as the last one has ended, until `stop` is set."""
    settings = replace(settings, run_deadline=min(settings.run_deadline, every), broker_wait=_BROKER_WAIT)
    limit = RateLimit(settings.rate_limit, retry_policy(settings))
    sink, state = PeriodSink(sink_of(settings)), StreamState(settings.data)
    while not stop.is_set():
        started = time.monotonic()
        summary = run(settings, sink, limit, _FLUSH_INTERVAL)
        sink.end_round(summary.counters)
        save_summary(settings.data, summary_text(summary))
        state.save(summary)
        stop.wait(max(0.0, started + every - time.monotonic()))
    sink.finish()


def main() -> int:
    """Run until SIGTERM; see the module's docstring."""
    Parser(description=(__doc__ or "").partition("\n")[0]).parse_args()
    try:
        settings = read_settings(os.environ)
        every = read_every(os.environ, settings)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT.bad_input
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stream(settings, every, stop)
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
