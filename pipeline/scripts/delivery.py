"""What is spooled goes to Postgres, and what came of it is counted."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

import psycopg
from rawtables import Batch, Connection, Outcome, began, connect, ended, store
from spool import Segment, Spool

SOME, NONE = 4, 1  # exit statuses
_MANY, _FEW = 10_000, 1_000  # rows that go to Postgres at once, and while it has nothing else to do
_NAMED = 1_000  # cities whose failure is told one by one
_AGAIN = 20.0  # seconds after which Postgres is tried again


@dataclass(slots=True)
class Summary:
    """What came of a run. stored + unchanged + failed + spooled = asked; `quarantined` cities are among the failed."""

    asked: int
    stored: int = 0
    unchanged: int = 0
    failed: int = 0
    quarantined: int = 0
    spooled: int = 0
    recovered: int = 0  # rows of earlier runs that went in with this one
    requests: int = 0
    errors: dict[str, str] = field(default_factory=dict)  # of the first thousand
    problem: str | None = None
    seconds: float = 0

    def fail(self, city: str, why: str) -> None:
        """Count a city that failed, and say so."""
        self.failed += 1
        if len(self.errors) < _NAMED:
            self.errors[city] = why
            print(f"error: {city}: {why}", file=sys.stderr)

    @property
    def counts(self) -> dict[str, int]:
        """The numbers that are kept in Postgres."""
        names = ("asked", "stored", "unchanged", "failed", "quarantined", "spooled", "recovered", "requests")
        return {name: getattr(self, name) for name in names}

    @property
    def status(self) -> int:
        """The exit status."""
        if not self.failed and not self.spooled and not self.problem:
            return 0
        return SOME if self.stored + self.unchanged + self.recovered else NONE


class Postgres:
    """Brings segments in, as long as Postgres is there; those that it does not get are kept in the spool.

    One after the other, in a thread of its own, so that answers are taken in meanwhile; the next one stands ready
    there. The thread begins with the connection, which need not wait for answers.
    """

    def __init__(self, run: UUID, summary: Summary, spool: Spool) -> None:
        self._run, self._summary, self._spool = run, summary, spool
        self._started, self._failed_at = datetime.now(UTC), float("-inf")
        self._connection: Connection | None = None
        self._kept, self._left = list[Segment](), 0
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(self._connected)
        self._under_way = deque[tuple[Segment, Future[Outcome | None]]]()

    def takes(self, rows: int) -> bool:
        """Whether so many are worth a transaction: a few while nothing is under way, else as many as memory holds."""
        return rows > 0 and rows % _FEW == 0 and (rows >= _MANY or all(future.done() for _, future in self._under_way))

    def send(self, segment: Segment) -> None:
        """Bring it in, or keep it; waits until it is the next one."""
        batch = Batch.of(segment.read())
        self._settle(but=1)
        self._under_way.append((segment, self._thread.submit(self._bring, batch)))

    def _settle(self, but: int = 0) -> None:
        """Count what came of the segments under way; wait until only so many of them are left."""
        while self._under_way and (len(self._under_way) > but or self._under_way[0][1].done()):
            segment, future = self._under_way.popleft()
            self._settled(segment, future.result())

    def _settled(self, segment: Segment, outcome: Outcome | None) -> None:
        if outcome is None and segment.mine:
            segment.keep()
            self._kept.append(segment)
        elif outcome is None:
            self._left += 1
            segment.release()
        else:
            self._count(outcome, segment)
            self._spool.done(segment)

    def _bring(self, batch: Batch) -> Outcome | None:
        connection = self._connected()
        try:
            return None if connection is None else store(connection, batch)
        except psycopg.Error as error:
            self._gone(error)
            return None

    def finish(self) -> None:
        """Try once more what was kept, and note how the run has ended."""
        self._settle()
        self._failed_at = float("-inf")
        kept, self._kept = self._kept, []
        for segment in kept:
            self.send(segment)
        self._settle()
        self._thread.shutdown()
        self._summary.spooled = sum(segment.good for segment in self._kept)
        connection = self._connected()
        if connection is None:
            return
        if not self._kept and not self._left:
            self._summary.problem = None
        try:
            ended(connection, self._run, self._summary.counts, self._summary.problem)
        except psycopg.Error as error:
            self._gone(error)
        connection.close()

    def _connected(self) -> Connection | None:
        if self._connection is None and time.monotonic() >= self._failed_at + _AGAIN:
            try:
                self._connection = connect()
                began(self._connection, self._run, self._started)
            except psycopg.Error as error:
                self._gone(error)
        return self._connection

    def _gone(self, error: psycopg.Error) -> None:
        self._summary.problem = f"Postgres: {' '.join(str(error).split())}"
        print(f"error: {self._summary.problem}", file=sys.stderr)
        if self._connection is not None:
            self._connection.close()
        self._connection, self._failed_at = None, time.monotonic()

    def _count(self, outcome: Outcome, segment: Segment) -> None:
        if not segment.mine:
            self._summary.recovered += outcome.new
            return
        self._summary.stored += outcome.new
        self._summary.unchanged += outcome.known
        self._summary.quarantined += outcome.quarantined
        for city, why in outcome.refused:
            self._summary.fail(city, why)
