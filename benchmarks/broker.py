"""Benchmark of the broker: `python -m benchmarks.broker [rows] [nats|kafka]`. PostgreSQL 16 with fsync on.

Rows are published over TLS, consumed and committed, and compared with one raw psycopg COPY of the same rows in the same
run. NATS writes each message through to the disk. Tansu, in place of Redpanda, keeps them in memory: its figures are
those of the clients.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from benchmarks.ingest import deployed, raw_copy, rows
from benchmarks.table import Row, print_table
from homelab.model import DatabaseGrant
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.nats_server import NatsServer, nats_server
from tests.integration.tansu_server import TansuServer, tansu_server
from tests.scripts import SCRIPTS

from broker_access import Access  # isort: skip
from broker_sink import BrokerSink  # isort: skip
from raw_tables import Batch  # isort: skip
from spool import observation_line  # isort: skip

Broker = NatsServer | TansuServer
SERVERS: Mapping[str, Callable[..., AbstractContextManager[Broker]]] = {"nats": nats_server, "kafka": tansu_server}
_BATCH = 10_000  # rows, as the ingestion flushes them
_MOST_MEMORY = 120  # MB


def memory(pid: int) -> float:
    """Return the proportional memory of a process in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("Pss:")[2].split()[0]) / 1024


def consumer(server: pg.Server, database: str, broker: Broker, folder: Path) -> subprocess.Popen[bytes]:
    """Start a consumer."""
    environment = {
        **os.environ,
        **server.environment(database, "consumer", "consumer"),
        **broker.environment("consumer-consumer-0"),
        "CONSUMER_DATA": str(folder),
    }
    return subprocess.Popen([sys.executable, str(SCRIPTS / "consumer.py")], env=environment)


def stored(server: pg.Server, database: str) -> int:
    """Return the number of stored rows."""
    with server.connect(database) as connection:
        ((count,),) = connection.execute("select count(*) from raw.weather_observations").fetchall()
        assert isinstance(count, int)  # noqa: S101
        return count


def through(server: pg.Server, database: str, count: int, kind: str, folder: Path) -> Iterator[Row]:
    """Compare the way through the broker with COPY."""
    wanted = rows(count)
    copy = raw_copy(server, database, wanted)
    with server.connect(database) as connection:
        connection.execute("truncate raw.weather_observations")
    lines = [observation_line(city, "imperial", dt, text) for city, dt, text in wanted]
    with SERVERS[kind](folder / kind, disk=1 << 30) as broker:
        process = consumer(server, database, broker, folder)
        try:
            sink = BrokerSink(Access.read(broker.environment("ingestion")), "@hourly", {})
            sink.connect(uuid4(), datetime.now(UTC))
            started = time.perf_counter()
            for first in range(0, count, _BATCH):
                sink.store(Batch.of(lines[first : first + _BATCH]))
            published = time.perf_counter() - started
            while stored(server, database) < count:
                time.sleep(0.02)
            taken = time.perf_counter() - started
            sink.close()
            assert broker.process is not None  # noqa: S101
            used = memory(broker.process.pid), memory(process.pid)
        finally:
            process.terminate()
            process.wait(20)
    rate = f"{count / taken:,.0f} rows/s"
    yield Row(
        f"through the broker ({kind}), {count:,} rows",
        rate,
        f"raw COPY {count / copy:,.0f} rows/s",
        f"{copy / taken:.0%}",
        "",
        True,
    )
    yield Row("publishing alone", f"{count / published:,.0f} messages/s", "", "", "", True)
    total = sum(used)
    shown = f"{used[0]:.0f} + {used[1]:.0f} MB"
    yield Row("memory of broker and consumer", shown, "", "", f"≤ {_MOST_MEMORY} MB", total <= _MOST_MEMORY)


@contextmanager
def deployed_for_a_consumer() -> Iterator[tuple[pg.Server, str]]:
    """Yield a server and a database with the role of a consumer."""
    with deployed() as (server, database), server.role("consumer", "consumer"):
        with server.connect(database) as connection:
            connection.execute(raw_grants(DatabaseGrant(database, "consumer", "append", "raw")).sql.encode())
        try:
            yield server, database
        finally:
            with server.connect(database) as connection:
                connection.execute("drop owned by consumer")


def main() -> None:
    """Measure and print one table; the exit code is 1 if an aim is missed."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    kind = sys.argv[2] if len(sys.argv) > 2 else "nats"
    with deployed_for_a_consumer() as (server, database), tempfile.TemporaryDirectory() as folder:
        print_table(through(server, database, count, kind, Path(folder)))


if __name__ == "__main__":
    main()
