"""The broker on loopback: real NATS over TLS, real PostgreSQL, kills and cuts, against a ledger of the responses."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from homelab.model import DatabaseGrant
from homelab.pipelines.broker_contract import CONSUMERS, STREAM
from homelab.services.raw_schema import raw_grants
from tests.integration import pg
from tests.integration.flaky_proxy import FlakyProxy
from tests.integration.nats_server import nats_server
from tests.integration.waiting import until
from tests.scripts import SCHEMA, SCRIPTS

import nats.errors  # isort: skip
from broker_access import Access  # isort: skip
from broker_nats import connect  # isort: skip
from contract import EXIT  # isort: skip

KILLS = int(os.environ.get("HOMELAB_KILLS", "5"))
CITIES = 200
CONSUMER = "consumer-consumer-0"
pytestmark = pytest.mark.timeout(max(360, 36 * KILLS))


class Ledger(ThreadingHTTPServer):
    """An OpenWeather that writes down city and time of each response; each hour has new ones."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.dt, self.sent = 1_700_000_000, set[tuple[str, str]]()
        self.broken: set[str] = set()  # ids of cities whose responses PostgreSQL refuses
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Ledger

    def do_GET(self) -> None:
        """Answer like OpenWeather."""
        number = parse_qs(urlsplit(self.path).query)["id"][0]
        body = {"dt": self.server.dt, "main": {"temp": 1.5}, "name": f'a "tab"\t of {number}'}
        if number in self.server.broken:
            body["name"] = "\u0000"
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if number not in self.server.broken:
            self.server.sent.add((f"C{number}", str(self.server.dt)))
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@dataclass
class Stack:
    """The processes of a test: the ledger, the broker, PostgreSQL, and the consumers."""

    folder: Path
    postgres: pg.Server
    broker: Any  # NatsServer or TansuServer
    ledger: Ledger
    consumers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    postgres_port: int = 0  # of a proxy
    broker_port: int = 0

    def __post_init__(self) -> None:
        """Write the file of cities."""
        self.data = self.folder / "data"
        self.data.mkdir()
        self.cities = self.folder / "cities.csv"
        self.cities.write_text("name,id\n" + "".join(f"C{number},{number}\n" for number in range(1, CITIES + 1)))

    @property
    def python(self) -> dict[str, str]:
        """The variables of all scripts."""
        return {key: os.environ[key] for key in ("PATH", "PYTHONPATH")}

    def ingest(self, to: str = "broker", wait: float = 0.05) -> subprocess.Popen[bytes]:
        """Start a run of the ingestion; to the broker, it has no access to PostgreSQL."""
        away = {"PGHOST": "127.0.0.1", "PGPORT": "1"}
        environment = {
            **self.python,
            **(away if to == "broker" else self.postgres.environment("raw_test", "analytics", "analytics")),
            **(self.broker.environment("ingestion", self.broker_port) if to == "broker" else {}),
            "WEATHER_TO": to,
            "WEATHER_BROKER_WAIT": str(wait),
            "WEATHER_DATA": str(self.data),
            "WEATHER_CITIES_FILE": str(self.cities),
            "OPENWEATHER_BASE_URL": self.ledger.url,
            "OPENWEATHER_API_KEY": "key",
            "OPENWEATHER_RATE_LIMIT": "0",
        }
        with (self.folder / "ingest.log").open("ab") as log:
            words = [sys.executable, str(SCRIPTS / "ingest_weather.py")]
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log)

    def hour(self, to: str = "broker", wait: float = 0.05) -> int:
        """Run the ingestion of the next hour; return its exit status."""
        self.ledger.dt += 3600
        return self.ingest(to, wait).wait(90)

    def consume(self, part: int = 0, parts: int = 1) -> subprocess.Popen[bytes]:
        """Start a consumer."""
        folder = self.folder / f"consumer-{part}"
        folder.mkdir(exist_ok=True)
        database = self.postgres.environment("raw_test", "consumer", "consumer")
        environment = {
            **self.python,
            **database,
            **self.broker.environment(f"consumer-consumer-{part}", self.broker_port),
            "PGPORT": str(self.postgres_port or database["PGPORT"]),
            "PGCONNECT_TIMEOUT": "2",
            "CONSUMER_DATA": str(folder),
        }
        words = [sys.executable, str(SCRIPTS / "consumer.py"), "--part", str(part), "--parts", str(parts)]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.consumers.append(process)
        return process

    def summary(self) -> dict[str, Any]:
        """Return the summary of the last run."""
        found: dict[str, Any] = json.loads((self.data / "last_ingest.json").read_text())
        return found

    def stored(self) -> list[tuple[str, str]]:
        """Return city and time of all stored observations."""
        with self.postgres.connect("raw_test") as connection:
            rows = connection.execute("select city, data ->> 'dt' from raw.weather_observations").fetchall()
        return [(str(city), str(dt)) for city, dt in rows]

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query."""
        with self.postgres.connect("raw_test") as connection:
            return connection.execute(sql.encode()).fetchall()

    def spooled(self) -> int:
        """Return the number of rows in the spool."""
        return sum(path.read_bytes().count(b"\n") for path in (self.data / "spool").glob("*.rows"))

    def drained(self) -> None:
        """Wait until nothing waits in the broker; then the ledger and the table have to agree."""
        until(lambda: self.broker.report()["messages"] == 0)
        found = Counter(self.stored())
        assert [key for key, number in found.items() if number > 1] == [], "stored twice"
        assert self.ledger.sent - set(found) == set(), "lost"
        assert set(found) == self.ledger.sent

    def kill_postgres(self) -> None:
        """Kill PostgreSQL's processes, as a crash does, and start it again."""
        os.kill(int((self.postgres.data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
        log = str(self.postgres.data.parent / "log")
        for _ in range(50):
            try:
                self.postgres.run("pg_ctl", "start", "--wait", "-D", str(self.postgres.data), "-l", log)
            except subprocess.CalledProcessError:  # its other processes have not ended yet
                time.sleep(0.1)
            else:
                return
        raise AssertionError("PostgreSQL does not start again")


@pytest.fixture(scope="module")
def server() -> Iterator[pg.Server]:
    """A PostgreSQL of these tests, which keeps each committed row when it is killed."""
    if pg.archive() is None:
        pytest.skip("PostgreSQL 16 is not in .venv/pg16: ./bootstrap --test")
    with pg.server({"synchronous_commit": "on"}) as running:
        for role in ("analytics", "consumer", "dbt"):
            with running.connect() as connection:
                connection.execute(f"create role {role} login password '{role}'".encode())
        yield running


@contextmanager
def stack(folder: Path, server: pg.Server, broker: Any = nats_server, **options: Any) -> Iterator[Stack]:
    """Run a broker and the ledger, with an empty database; end all processes afterwards."""
    with ExitStack() as resources:
        resources.enter_context(server.database("raw_test"))
        with server.connect("raw_test") as connection:
            connection.execute(b"revoke all on database raw_test from public")
            connection.execute(SCHEMA.read_bytes())
            for role in ("analytics", "consumer"):
                connection.execute(raw_grants(DatabaseGrant("raw_test", role, "append", "raw")).sql.encode())
        started = resources.enter_context(broker(folder / "broker", **options))
        ledger = Ledger()
        resources.callback(ledger.server_close)
        resources.callback(ledger.shutdown)
        running = Stack(folder, server, started, ledger)
        resources.callback(lambda: [each.kill() for each in running.consumers])
        yield running


@pytest.fixture
def running(tmp_path: Path, server: pg.Server) -> Iterator[Stack]:
    """All processes, without a consumer."""
    with stack(tmp_path, server) as found:
        yield found


def store_an_hour(running: Stack) -> None:
    """Run a consumer and an hour of the ingestion, of which PostgreSQL refuses one response."""
    running.consume()
    running.ledger.broken = {"7"}
    assert running.hour(wait=20) == EXIT.success
    assert {key: running.summary()[key] for key in ("stored", "unchanged", "spooled", "waiting", "problem")} == {
        "stored": CITIES,
        "unchanged": 0,
        "spooled": 0,
        "waiting": 0,
        "problem": None,
    }
    running.drained()
    until(lambda: len(running.query("select from raw.ingestion_runs where finished is not null")) == 1)


def test_a_run_is_stored_with_its_record_and_settings(running: Stack) -> None:
    store_an_hour(running)
    assert running.query("select asked, stored, error from raw.ingestion_runs") == [(CITIES, CITIES, None)]
    assert running.query("select count(*) from raw.city_settings") == [(CITIES,)]
    # A message that PostgreSQL refuses is in the quarantine with the reason, and stops nothing.
    ((city, reason),) = running.query("select city, reason from raw.quarantine")
    assert city == "C7"
    assert "PostgreSQL refuses the response" in str(reason)
    metrics = running.broker.metrics()
    assert metrics["homelab_broker_messages"] == metrics["homelab_broker_pending"] == 0
    assert metrics["homelab_broker_limit_bytes"] == running.broker.disk
    assert metrics["homelab_broker_read"] == metrics["homelab_broker_consumers"] == 5
    until(
        lambda: (
            f"homelab_consumer_stored_total {CITIES - 1}\n" in (running.folder / "consumer-0/metrics.prom").read_text()
        )
    )
    # The same responses again: the broker knows them.
    assert running.ingest(wait=20).wait(60) == EXIT.success
    assert {key: running.summary()[key] for key in ("stored", "unchanged", "waiting")} == {
        "stored": 0,
        "unchanged": CITIES,
        "waiting": 0,
    }
    running.drained()


def store_all_but(poison: int, running: Stack) -> None:
    """Run a consumer and an hour; a number of messages that wait already cannot be stored, or have no city of ours."""
    running.consume()
    assert running.hour(wait=20) == EXIT.success
    until(lambda: running.broker.report()["messages"] == 0)
    assert set(running.stored()) >= running.ledger.sent
    refused = running.query("select reason from raw.quarantine")
    assert len(refused) + len(running.stored()) - len(running.ledger.sent) == poison


def test_poison_messages_stop_nothing(running: Stack) -> None:
    # Not from the ingestion: bytes that are neither rows nor records.
    poison = [
        b"",
        b"\n",
        b"no row",
        b"1\tX\tmetric\t{}\n2\tY\tmetric\t{}\n",
        b"\xff\t\t\t\n",
        b"9" * 40 + b"\tX\tmetric\t{}\n",
    ]
    poison += [
        b"1\t\tmetric\t{}\n",
        b"1\tX\tparsecs\t{}\n",
        b"1\tX\tmetric\t" + b"[" * 9000 + b"\n",
        b"1\tX\tmetric\t{}",
    ]
    records = [b"", b"[]", b'{"run": 1}', b'{"run": "x"}', b"null", b'{"run": "%s", "finished": "x", "counters": {}}']
    records += [
        b'{"run": "0e5d1a9c-0e5d-4a9c-8e5d-0e5d1a9c0e5d", "started": "2026-01-01", "schedule": 5, "timezones": 5}'
    ]

    records += [
        b"[" * 100_000,
        records[-1].replace(b'"schedule": 5', b'"schedule": {}').replace(b'": 5}', b'": {"a": {}}}'),
    ]

    async def publish() -> None:
        client = await connect(Access.read(running.broker.environment("ingestion")), reconnect=False)
        stream = client.jetstream()
        for line in poison:
            await stream.publish("weather.observations.1", line)
        for record in records:
            await stream.publish("weather.runs", record)
        await client.close()

    asyncio.run(publish())
    store_all_but(len(poison) + len(records), running)


def test_nothing_is_lost_while_postgresql_and_the_broker_are_away(running: Stack) -> None:
    # PostgreSQL and the consumer are away: the broker holds the responses.
    assert running.hour() == EXIT.success
    assert running.summary()["waiting"] == CITIES
    assert running.stored() == []
    # A second outage on top: the broker is away, too, and the spool holds them.
    running.broker.kill()
    assert running.hour() == EXIT.failed
    assert (running.summary()["spooled"], running.spooled()) == (CITIES, CITIES)
    assert "broker" in running.summary()["problem"]
    running.broker.start()
    running.consume()
    assert running.hour(wait=20) == EXIT.success
    assert running.summary()["recovered"] == CITIES
    assert running.spooled() == 0
    running.drained()


def fill(running: Stack) -> None:
    """Run hours until the broker has no room for the next one, which is in the spool then."""
    hours = 0
    while running.hour() == EXIT.success:
        hours += 1
        assert hours < 20
    assert hours > 0
    assert running.spooled() > 0


def empty(running: Stack) -> None:
    """Run a consumer until everything is stored."""
    running.consume()
    until(lambda: running.broker.report()["messages"] == 0)
    assert running.hour(wait=20) == EXIT.success
    running.drained()


def test_a_full_broker_refuses_and_the_spool_takes_over(tmp_path: Path, server: pg.Server) -> None:
    with stack(tmp_path, server, disk=150_000) as running:
        fill(running)
        assert "maximum bytes exceeded" in running.summary()["problem"]
        report = running.broker.report()
        assert report["bytes"] > 0.7 * report["limit_bytes"]
        empty(running)


def test_a_stored_message_that_a_killed_broker_kept_does_not_wait(running: Stack) -> None:
    assert running.hour() == EXIT.success
    (messages,) = running.broker.folder.glob("store/jetstream/*/streams/*/msgs")
    before = Path(shutil.copytree(messages, running.folder / "before"))
    running.consume()
    running.drained()
    # As after a kill at the wrong moment: all acknowledgements are noted, and all messages are there.
    running.broker.stop()
    shutil.rmtree(messages)
    before.rename(messages)
    running.broker.start()
    assert running.broker.kept() >= CITIES
    assert running.broker.report()["messages"] == running.broker.metrics()["homelab_broker_messages"] == 0
    # The next messages wait, and are stored.
    running.consumers[0].kill()
    assert running.hour() == EXIT.success
    assert CITIES <= running.broker.report()["messages"] < running.broker.kept()
    running.consume()
    running.drained()


def test_messages_without_a_consumer_wait(running: Stack) -> None:
    assert running.hour() == EXIT.success

    async def delete(name: str) -> None:
        client = await connect(Access.read(running.broker.environment("setup")), reconnect=False)
        await client.jetstream().delete_consumer(STREAM, name)
        await client.close()

    asyncio.run(delete(next(iter(CONSUMERS))))
    assert running.broker.report()["messages"] == running.broker.kept() > CITIES
    running.broker.set_up()
    running.consume()
    running.drained()


def test_the_way_to_the_broker_and_back_loses_nothing(running: Stack) -> None:
    assert running.hour("postgres") == EXIT.success
    running.broker.kill()
    assert running.hour() == EXIT.failed  # in the spool
    running.broker.start()
    assert running.hour() == EXIT.success  # spool and this hour in the broker, without a consumer
    running.broker.kill()
    assert running.hour() == EXIT.failed  # in the spool again
    assert running.hour("postgres") == EXIT.success  # drains the spool directly
    assert running.spooled() == 0
    running.broker.start()
    running.consume()
    running.drained()


def kill_each(running: Stack, kills: int, shortest: float, longest: float) -> None:
    """Kill broker, consumer and PostgreSQL in turn, each some seconds after the start of an hour."""
    chance = random.Random(7)  # noqa: S311
    consumer = running.consume()
    for victim in ("broker", "consumer", "postgresql") * kills:
        running.ledger.dt += 3600
        ingestion = running.ingest()
        time.sleep(chance.uniform(shortest, longest))
        if victim == "broker":
            running.broker.kill()
            running.broker.start()
        elif victim == "consumer":
            consumer.kill()
            consumer.wait(10)
            consumer = running.consume()
        else:
            running.kill_postgres()
        assert ingestion.wait(60) in (EXIT.success, EXIT.failed, EXIT.partial)
    assert running.hour(wait=40) == EXIT.success  # drains the spool
    running.drained()


def test_kills_of_broker_consumer_and_postgresql(running: Stack) -> None:
    kill_each(running, KILLS, 0.3, 1.2)


def kill_ingestion(running: Stack, kills: int) -> None:
    """Kill the ingestion in some hours; all that was in its spool is stored once."""
    chance = random.Random(9)  # noqa: S311
    running.consume()
    known = set[tuple[str, str]]()
    for _ in range(kills):
        running.ledger.dt += 3600
        ingestion = running.ingest()
        time.sleep(chance.uniform(0.4, 1.1))
        ingestion.kill()
        ingestion.wait(10)
        for path in (running.data / "spool").glob("*.rows"):
            lines = [line.split(b"\t") for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")]
            known |= {(city.decode(), dt.decode()) for dt, city, *_ in lines}
    assert running.hour(wait=20) == EXIT.success
    until(lambda: running.broker.report()["messages"] == 0)
    found = Counter(running.stored())
    assert max(found.values()) == 1
    assert known <= set(found)
    assert set(found) <= running.ledger.sent
    assert running.spooled() == 0


def test_kills_of_the_ingestion(running: Stack) -> None:
    kill_ingestion(running, KILLS)


def cut_each(running: Stack, lines: Iterable[FlakyProxy]) -> None:
    """Cut one line after the other, each in an hour of its own."""
    running.consume()
    for line in lines:
        running.ledger.dt += 3600
        ingestion = running.ingest()
        time.sleep(0.7)
        line.cut()
        assert ingestion.wait(60) in (EXIT.success, EXIT.failed, EXIT.partial)
    assert running.hour(wait=20) == EXIT.success
    running.drained()


def test_cuts_of_the_network(running: Stack) -> None:
    with FlakyProxy(running.postgres.port) as to_postgres, FlakyProxy(running.broker.port) as to_broker:
        running.postgres_port, running.broker_port = to_postgres.port, to_broker.port
        cut_each(running, [to_broker, to_postgres] * KILLS)


def test_several_consumers_share_the_work(tmp_path: Path, server: pg.Server) -> None:
    with stack(tmp_path, server, consumers=2) as running:
        for part in range(2):
            running.consume(part, 2)
        assert running.hour(wait=20) == EXIT.success
        running.drained()

        def counts() -> list[int]:
            return [
                json.loads((tmp_path / f"consumer-{part}" / "state.json").read_text())["stored"] for part in range(2)
            ]

        until(lambda: sum(counts()) == CITIES)
        assert 0 < counts()[0] < CITIES


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("ingestion", "$JS.API.STREAM.DELETE.WEATHER"),
        ("ingestion", "$JS.API.STREAM.PURGE.WEATHER"),
        ("ingestion", "$JS.API.CONSUMER.MSG.NEXT.WEATHER.store-0"),
        (CONSUMER, "weather.observations.0"),
        (CONSUMER, "$JS.API.STREAM.PURGE.WEATHER"),
        (CONSUMER, "$JS.API.STREAM.MSG.GET.WEATHER"),
        ("setup", "weather.observations.0"),
    ],
)
def test_an_identity_may_do_nothing_else(running: Stack, user: str, subject: str) -> None:
    async def attempt() -> None:
        client = await connect(Access.read(running.broker.environment(user)), reconnect=False)
        try:
            await client.request(subject, b'{"batch": 1, "no_wait": true}', timeout=0.3)
        finally:
            await client.close()

    with pytest.raises((nats.errors.TimeoutError, nats.errors.Error)):
        asyncio.run(attempt())
    assert running.broker.report()["messages"] == 0
    assert running.broker.report()["consumers"] == 5
