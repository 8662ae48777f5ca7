"""The loader: hands spooled segments to PostgreSQL or the broker in the background, and counts the run's outcomes."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from uuid import UUID

from contract import EXIT
from raw_tables import Batch, StoreResult
from run_counters import RunCounters
from sinks import PostgresSink, Sink, SinkError
from spool import Segment, Spool, city_of, is_observation

_FULL_BATCH, _IDLE_BATCH = 10_000, 1_000  # rows
_MAX_ERRORS = 1_000  # failed cities that are reported by name
_RETRY_AFTER = 20.0  # seconds between attempts to connect


@dataclass(slots=True)
class RunSummary(RunCounters):
    """The counters of a run and its errors. stored + unchanged + failed + spooled = asked."""

    errors: dict[str, str] = field(default_factory=dict)  # by city, at most _MAX_ERRORS
    problem: str | None = None  # an error that is not a city's
    waiting: int = 0  # rows that the broker has taken, and that its consumer has not stored yet
    seconds: float = 0

    def fail(self, city: str, reason: str) -> None:
        """Count a failed city and report it."""
        self.failed += 1
        if len(self.errors) < _MAX_ERRORS:
            self.errors[city] = reason
            print(f"error: {city}: {reason}", file=sys.stderr)

    @property
    def counters(self) -> RunCounters:
        """The part that PostgreSQL keeps."""
        return RunCounters(**{each.name: getattr(self, each.name) for each in fields(RunCounters)})

    @property
    def status(self) -> int:
        """The exit status."""
        if not self.failed and not self.spooled and not self.problem:
            return EXIT.success
        return EXIT.partial if self.stored + self.unchanged + self.recovered else EXIT.failed


class Loader:
    """Hands over segments one after the other while the destination is reachable; the others stay in the spool.

    A thread does it, so that responses are read meanwhile; one further segment is queued there. The thread connects
    first, before there are any responses.
    """

    def __init__(self, run: UUID, summary: RunSummary, spool: Spool, sink: Sink | None = None) -> None:
        """`sink` is the destination; by default PostgreSQL."""
        self._run, self._summary, self._spool, self._sink = run, summary, spool, sink or PostgresSink()
        self._started, self._failed_at = datetime.now(UTC), float("-inf")
        self._connected = False
        self._kept, self._released = list[Segment](), 0
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._connect)
        self._pending = deque[tuple[Segment, Future[StoreResult | None]]]()

    @property
    def works(self) -> bool:
        """True if the destination has accepted everything so far."""
        return self._summary.problem is None

    def should_flush(self, rows: int) -> bool:
        """Decide whether to store now: every 1,000 rows when idle, otherwise at 10,000."""
        if rows == 0 or rows % _IDLE_BATCH:
            return False
        return rows >= _FULL_BATCH or all(future.done() for _, future in self._pending)

    def submit(self, segment: Segment) -> None:
        """Queue a segment; wait while another one is queued."""
        batch = Batch.of(segment.read())
        self._collect(keep=1)
        self._pending.append((segment, self._thread.submit(self._store, batch)))

    def _collect(self, keep: int = 0) -> None:
        """Count the results of finished segments; wait until at most `keep` are pending."""
        while self._pending and (len(self._pending) > keep or self._pending[0][1].done()):
            segment, future = self._pending.popleft()
            self._handle(segment, future.result())

    def _handle(self, segment: Segment, result: StoreResult | None) -> None:
        if result is None and segment.own:
            segment.sync()
            self._kept.append(segment)
        elif result is None:
            self._released += 1
            segment.release()
        else:
            self._count(result, segment)
            self._spool.remove(segment)

    def _store(self, batch: Batch) -> StoreResult | None:
        try:
            return self._sink.store(batch) if self._connect() else None
        except SinkError as error:
            self._disconnect(error)
            return None

    def finish(self) -> None:
        """Retry the segments that were kept, and record the end of the run."""
        self._collect()
        self._failed_at = float("-inf")
        kept, self._kept = self._kept, []
        for segment in kept:
            self.submit(segment)
        self._collect()
        self._thread.shutdown()
        unwritten = [line for segment in self._kept for line in segment.unwritten if is_observation(line)]
        for line in unwritten:
            self._summary.fail(city_of(line), "neither PostgreSQL nor the disk could take its observation")
        self._summary.spooled = sum(segment.observations for segment in self._kept) - len(unwritten)
        if not self._connect():
            return
        if not self._kept and not self._released:
            self._summary.problem = None
        try:
            self._sink.record_end(self._run, self._summary.counters, self._summary.problem)
            self._summary.waiting = self._sink.waiting()
        except SinkError as error:
            self._disconnect(error)
        self._sink.close()

    def _connect(self) -> bool:
        if not self._connected and time.monotonic() >= self._failed_at + _RETRY_AFTER:
            try:
                self._sink.connect(self._run, self._started)
                self._connected = True
            except SinkError as error:
                self._disconnect(error)
        return self._connected

    def _disconnect(self, error: SinkError) -> None:
        self._summary.problem = str(error)
        print(f"error: {self._summary.problem}", file=sys.stderr)
        self._sink.close()
        self._connected, self._failed_at = False, time.monotonic()

    def _count(self, result: StoreResult, segment: Segment) -> None:
        if not segment.own:
            self._summary.recovered += result.stored
            for city, reason in result.refused:
                print(f"error: {city}, from the spool: {reason}", file=sys.stderr)
            return
        self._summary.stored += result.stored
        self._summary.unchanged += result.unchanged
        self._summary.quarantined += result.quarantined
        for city, reason in result.refused:
            self._summary.fail(city, reason)
