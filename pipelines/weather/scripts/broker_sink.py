"""The broker as the destination of the ingestion: each row is one message, and waits there for the consumer.

A row counts as `stored` once the broker has it on its disk, and as `unchanged` if the broker had it already and knows
this: NATS does for a while, Kafka does not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

from broker_access import Access
from broker_client import RUNS, BrokerError, Publisher, Receipt, open_publisher, subject_of
from raw_tables import Batch, StoreResult
from run_counters import RunCounters
from sinks import SinkError
from spool import is_observation

logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns whenever the client closes a TLS connection
T = TypeVar("T")
_IN_FLIGHT = 500  # messages whose acknowledgement is awaited
_DEADLINE = 60.0  # seconds for one request; the clients have shorter ones
_SETTINGS = 2000  # cities in one message
_PAUSE = 0.1  # seconds between two looks at the consumers


class BrokerSink:
    """The broker. `schedule` and `timezones` are recorded with each run; `wait` is in seconds."""

    def __init__(self, access: Access, schedule: str, timezones: Mapping[str, str | None], wait: float = 10) -> None:
        self._access, self._schedule, self._timezones, self._wait = access, schedule, timezones, wait
        self._publisher: Publisher | None = None
        self._published: dict[str, list[int]] = {}  # positions by subject
        self._loop = asyncio.new_event_loop()
        # The client answers the broker's pings there between two batches.
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def connect(self, run: UUID, started: datetime) -> None:
        """Connect, and publish the start of a run with its settings."""
        self._publisher = self._run(open_publisher(self._access))
        names = list(self._timezones)
        parts = [names[first : first + _SETTINGS] for first in range(0, len(names), _SETTINGS)] or [[]]
        for part in parts:
            timezones = {name: self._timezones[name] for name in part}
            record = {"started": started.isoformat(), "schedule": self._schedule, "timezones": timezones}
            self._record(run, record)

    def store(self, batch: Batch) -> StoreResult:
        """Publish the rows of a batch, and wait until all of them are on the broker's disk."""
        acknowledged = self._run(self._publish_all(batch.lines))
        new = sum(not receipt.duplicate for line, receipt in acknowledged if is_observation(line))
        quarantined = sum(not is_observation(line) for line in batch.lines)
        return StoreResult(new, len(batch.lines) - quarantined - new, quarantined)

    def record_end(self, run: UUID, counters: RunCounters, error: str | None) -> None:
        """Publish the end of a run."""
        finished = datetime.now(UTC).isoformat()
        self._record(run, {"finished": finished, "counters": asdict(counters), "error": error})

    def waiting(self) -> int:
        """Wait a while for the consumer; return the number of rows that it has not stored, all if it is unknown."""
        deadline = time.monotonic() + self._wait
        while True:
            try:
                waiting = self._run(self._count_waiting())
            except SinkError:
                return sum(map(len, self._published.values()))
            if not waiting or time.monotonic() > deadline:
                return waiting
            time.sleep(_PAUSE)

    def close(self) -> None:
        """Close the connection, if there is one."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            try:
                self._run(publisher.close())
            except SinkError:
                return

    def _record(self, run: UUID, record: Mapping[str, Any]) -> None:
        payload = json.dumps({"run": str(run), **record}, ensure_ascii=False).encode()
        self._run(self._connected.publish([(RUNS, payload)]))

    async def _publish_all(self, lines: Sequence[bytes]) -> list[tuple[bytes, Receipt]]:
        found = list[tuple[bytes, Receipt]]()
        for first in range(0, len(lines), _IN_FLIGHT):
            part = lines[first : first + _IN_FLIGHT]
            receipts = await self._connected.publish([(subject_of(line), line) for line in part])
            found += zip(part, receipts, strict=True)
        for line, receipt in found:
            self._published.setdefault(subject_of(line), []).append(receipt.position)
        return found

    async def _count_waiting(self) -> int:
        waiting = 0
        for subject, positions in self._published.items():
            stored = await self._connected.stored(subject)
            positions[:] = [position for position in positions if position > stored]  # a stream never ends
            waiting += len(positions)
        return waiting

    @property
    def _connected(self) -> Publisher:
        if self._publisher is None:
            raise BrokerError("broker: not connected")
        return self._publisher

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the client's thread. Raises SinkError."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE)
        except (BrokerError, TimeoutError) as error:
            raise SinkError(str(error) or "broker: no answer") from None
