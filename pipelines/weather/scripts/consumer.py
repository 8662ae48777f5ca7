"""Write the broker's messages to PostgreSQL: batches by COPY, acknowledged after the COMMIT.

Usage: consumer.py [--part NUMBER --parts NUMBER]; the variables are libpq's and those of the broker (NATS_URL, … or
KAFKA_URL, …).
Each consumer reads its share of the stream's parts. While PostgreSQL is away, nothing is read. A message that cannot be
stored goes to raw.quarantine with the reason. A message that is delivered again is stored already, and is skipped.
The counters since the start are in metrics.prom, and the state in state.json, both in CONSUMER_DATA.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from atomic_file import replace_text
from broker_access import Access
from broker_client import RUNS, BrokerError, Delivery, Reader, open_readers, subjects
from contract import EXIT, Parser
from raw_tables import Batch, Connection, StoreResult, is_row_error, record_end, record_settings, record_start, store
from raw_tables import connect as connect_postgres
from run_counters import RunCounters
from spool import damaged_line, is_damaged

_BATCH = 500  # messages; the consumer holds their text in memory
_IDLE = 5.0  # seconds of one request for messages
_LONGEST_PAUSE = 10.0  # seconds between attempts to connect
_REPORT_INTERVAL = 2.0  # seconds between reports without a new problem
_APPLICATION = "weather_consumer"


@dataclass(slots=True)
class State:
    """The counters since the start, and the current problem."""

    folder: Path
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stored", "unchanged", "quarantined"), 0))
    problem: str = ""
    since: str = ""  # of the problem
    written: float = 0  # Unix seconds

    def add(self, result: StoreResult) -> None:
        """Count the result of a batch."""
        for name in self.counts:
            self.counts[name] += getattr(result, name)
        self.report("")

    def report(self, problem: str) -> None:
        """Write the state, and name a new problem on standard error."""
        if problem != self.problem:
            self.since = datetime.now(UTC).isoformat(timespec="seconds")
            print(f"error: {problem}" if problem else "works again", file=sys.stderr, flush=True)
        elif time.time() < self.written + _REPORT_INTERVAL:
            return
        self.problem, self.written = problem, time.time()
        state = {**self.counts, "problem": problem, "since": self.since, "at": self.written}
        metrics = [f"homelab_consumer_{name}_total {number}\n" for name, number in self.counts.items()]
        metrics.append(f"homelab_consumer_working {int(not problem)}\n")
        for name, text in (("state.json", json.dumps(state)), ("metrics.prom", "".join(metrics))):
            try:
                replace_text(self.folder / name, text)
            except OSError:  # a full disk must not stop the consumer
                return


class Database:
    """The connection to PostgreSQL, which is opened again after each error."""

    def __init__(self, state: State) -> None:
        self._state, self._connection = state, None
        self._lock = asyncio.Lock()

    _connection: Connection | None

    async def available(self) -> None:
        """Wait until PostgreSQL answers."""
        async with self._lock:
            await self._connected()

    async def store(self, lines: Sequence[bytes]) -> StoreResult:
        """Store lines, again and again until PostgreSQL has committed them."""
        return await self._repeat(lambda connection: store_lines(connection, lines))

    async def record(self, payload: bytes) -> StoreResult:
        """Store the record of a run."""
        return await self._repeat(lambda connection: store_record(connection, payload))

    async def _repeat(self, work: Any) -> StoreResult:
        async with self._lock:
            while True:
                connection = await self._connected()
                try:
                    result: StoreResult = await asyncio.to_thread(work, connection)
                except psycopg.Error as error:
                    await self._lost(error)
                else:
                    return result

    async def _connected(self) -> Connection:
        pause = 0.2
        while True:
            try:
                if self._connection is None:
                    self._connection = await asyncio.to_thread(connect_postgres, _APPLICATION)
                    self._state.report("")
                else:
                    await asyncio.to_thread(self._connection.execute, "select 1")
            except psycopg.Error as error:
                await self._lost(error)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            else:
                return self._connection

    async def _lost(self, error: psycopg.Error) -> None:
        self._state.report(f"PostgreSQL: {' '.join(str(error).split())[:500]}")
        if self._connection is not None:
            await asyncio.to_thread(self._connection.close)
        self._connection = None
        await asyncio.sleep(0.2)


def store_lines(connection: Connection, lines: Sequence[bytes]) -> StoreResult:
    """Store lines in one transaction. Raises psycopg.Error if PostgreSQL is away.

    If a line causes an unforeseen error, the lines are stored one by one, and this line is quarantined.
    """
    checked = [damaged_line(line, "it is not a row") if _is_damaged(line) else line for line in lines]
    try:
        return store(connection, Batch.of(checked))
    except psycopg.Error:
        raise
    except Exception as error:  # noqa: BLE001 - an unforeseen message must not stop the others
        if len(checked) == 1:
            reason = f"internal error: {type(error).__name__}"
            return store(connection, Batch.of([damaged_line(checked[0], reason)]))
        return sum((store_lines(connection, [line]) for line in checked), StoreResult())


def _is_damaged(line: bytes) -> bool:
    return not line.endswith(b"\n") or b"\n" in line[:-1] or is_damaged(line)


def store_record(connection: Connection, payload: bytes) -> StoreResult:
    """Store the start or the end of a run; quarantine a message that is neither. Raises psycopg.Error."""
    try:
        with connection.transaction():
            _store_record(connection, json.loads(payload))
    except psycopg.Error as error:
        # Without a status, psycopg itself cannot send the value.
        if error.sqlstate is not None and not is_row_error(error):
            raise
        if isinstance(error, psycopg.OperationalError):
            raise
        reason = f"no record of a run: {error.diag.message_primary or type(error).__name__}"
    except Exception as error:  # noqa: BLE001 - an unforeseen message must not stop the others
        reason = f"no record of a run: {type(error).__name__}"
    else:
        return StoreResult()
    return store(connection, Batch.of([damaged_line(payload, reason)]))


def _store_record(connection: Connection, record: Mapping[str, Any]) -> None:
    run = UUID(record["run"])
    if "started" in record:
        record_start(connection, run, datetime.fromisoformat(record["started"]))
        record_settings(connection, record["schedule"], record["timezones"])
    else:
        counters, finished = RunCounters(**record["counters"]), datetime.fromisoformat(record["finished"])
        record_end(connection, run, counters, record["error"], finished)


async def consume(subject: str, reader: Reader, database: Database, state: State) -> None:
    """Store the messages of a subject, for ever."""
    while True:
        await database.available()
        try:
            delivery = await reader.read(_BATCH, _IDLE)
        except BrokerError as error:
            state.report(str(error))
            await asyncio.sleep(1)
            continue
        if delivery.payloads:
            await _store_messages(delivery, subject, database, state)
        else:
            state.report("")


async def _store_messages(delivery: Delivery, subject: str, database: Database, state: State) -> None:
    if subject == RUNS:
        for payload in delivery.payloads:
            state.add(await database.record(payload))
    else:
        state.add(await database.store(delivery.payloads))
    try:
        await delivery.acknowledge()
    except BrokerError as error:  # they are delivered again, and skipped
        state.report(str(error))


async def run(access: Access, mine: Sequence[str], state: State) -> None:
    """Connect, and store the messages of the subjects until the process is terminated."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    while True:
        try:
            readers = await open_readers(access, mine)
            break
        except BrokerError as error:
            state.report(str(error))
            await asyncio.sleep(1)
    database = Database(state)
    work = [consume(subject, reader, database, state) for subject, reader in zip(mine, readers, strict=True)]
    workers = [asyncio.create_task(each) for each in work]
    end = asyncio.create_task(stopped.wait())
    done, _ = await asyncio.wait([end, *workers], return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*(reader.close() for reader in readers))
    for each in done - {end}:
        each.result()  # raises: systemd starts the consumer again


def shares(part: int, parts: int) -> list[str]:
    """Return the subjects of one of several consumers."""
    return [subject for number, subject in enumerate(subjects()) if number % parts == part]


def main() -> int:
    """Parse the options and run; see the module's docstring."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--part", type=int, default=0, help="number of this consumer, from 0")
    parser.add_argument("--parts", type=int, default=1, help="number of consumers")
    options = parser.parse_args()
    if not 0 <= options.part < options.parts:
        parser.error("--part must be less than --parts")
    try:
        access = Access.read(os.environ)
    except KeyError as error:
        parser.error(f"{error.args[0]} is not set")
    state = State(Path(os.environ.get("CONSUMER_DATA", ".")))
    asyncio.run(run(access, shares(options.part, options.parts), state))
    return EXIT.success


if __name__ == "__main__":
    sys.exit(main())
