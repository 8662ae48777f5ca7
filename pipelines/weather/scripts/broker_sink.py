"""The broker as the destination of the ingestion: each row is one message, and waits there for the consumer.

A row counts as `stored` once the broker has it on its disk, and as `unchanged` if the broker had it already.
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
from broker_client import RUNS, STREAM, BrokerError, broker_errors, connect, consumer_of, message_id, subject_of
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import Header, PubAck
from raw_tables import Batch, StoreResult
from run_counters import RunCounters
from sinks import SinkError
from spool import is_observation

logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns whenever the client closes a TLS connection
T = TypeVar("T")
_IN_FLIGHT = 500  # messages whose acknowledgement is awaited
_DEADLINE = 30.0  # seconds for the acknowledgement of a message
_SETTINGS = 2000  # cities in one message
_PAUSE = 0.1  # seconds between two looks at the consumers


class BrokerSink:
    """The broker. `schedule` and `timezones` are recorded with each run; `wait` is in seconds."""

    def __init__(self, access: Access, schedule: str, timezones: Mapping[str, str | None], wait: float = 10) -> None:
        self._access, self._schedule, self._timezones, self._wait = access, schedule, timezones, wait
        self._client: Client | None = None
        self._published: dict[str, list[int]] = {}  # sequence numbers in the stream by subject
        self._loop = asyncio.new_event_loop()
        # The client answers the broker's pings there between two batches.
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def connect(self, run: UUID, started: datetime) -> None:
        """Connect, and publish the start of a run with its settings."""
        self._client = self._run(connect(self._access, reconnect=False))
        names = list(self._timezones)
        parts = [names[first : first + _SETTINGS] for first in range(0, len(names), _SETTINGS)] or [[]]
        for part in parts:
            timezones = {name: self._timezones[name] for name in part}
            record = {"started": started.isoformat(), "schedule": self._schedule, "timezones": timezones}
            self._record(run, record)

    def store(self, batch: Batch) -> StoreResult:
        """Publish the rows of a batch, and wait until all of them are on the broker's disk."""
        acknowledged = self._run(self._publish_all(batch.lines))
        new = sum(not ack.duplicate for line, ack in acknowledged if is_observation(line))
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
        client, self._client = self._client, None
        if client is not None:
            try:
                self._run(client.close())
            except SinkError:
                return

    def _record(self, run: UUID, record: Mapping[str, Any]) -> None:
        payload = json.dumps({"run": str(run), **record}, ensure_ascii=False).encode()
        self._run(self._publish(self._stream, RUNS, payload))

    async def _publish_all(self, lines: Sequence[bytes]) -> list[tuple[bytes, PubAck]]:
        stream, found = self._stream, list[tuple[bytes, PubAck]]()
        for first in range(0, len(lines), _IN_FLIGHT):
            part = lines[first : first + _IN_FLIGHT]
            acks = await asyncio.gather(*(self._publish(stream, subject_of(line), line) for line in part))
            found += zip(part, acks, strict=True)
        for line, ack in found:
            self._published.setdefault(subject_of(line), []).append(ack.seq)
        return found

    async def _publish(self, stream: JetStreamContext, subject: str, payload: bytes) -> PubAck:
        headers = {Header.MSG_ID.value: message_id(payload)}
        return await stream.publish(subject, payload, timeout=_DEADLINE, stream=STREAM, headers=headers)

    async def _count_waiting(self) -> int:
        waiting = 0
        for subject, sequences in self._published.items():
            info = await self._stream.consumer_info(STREAM, consumer_of(subject))
            floor = info.ack_floor.stream_seq if info.ack_floor else 0
            sequences[:] = [sequence for sequence in sequences if sequence > floor]  # a stream never ends
            waiting += len(sequences)
        return waiting

    @property
    def _stream(self) -> JetStreamContext:
        if self._client is None:
            raise BrokerError("broker: not connected")
        return self._client.jetstream()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the client's thread. Raises SinkError."""
        try:
            with broker_errors():
                return asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * _DEADLINE)
        except BrokerError as error:
            raise SinkError(str(error)) from None
