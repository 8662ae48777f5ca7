"""Kafka's protocol on loopback: Tansu in place of Redpanda, real PostgreSQL, against a ledger of the responses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import pg
from tests.integration.flaky_proxy import FlakyProxy
from tests.integration.nats_server import nats_server
from tests.integration.seaweed import program, storage
from tests.integration.tansu_server import tansu_server
from tests.integration.test_broker import (
    CITIES,
    Stack,
    cut_each,
    empty,
    fill,
    kill_each,
    kill_ingestion,
    server,
    stack,
    store_all_but,
    store_an_hour,
)
from tests.integration.waiting import until

from broker_access import Access  # isort: skip
from broker_client import BrokerError, open_publisher  # isort: skip
from contract import EXIT  # isort: skip

__all__ = ["server"]  # the fixture


@pytest.fixture
def running(tmp_path: Path, server: pg.Server) -> Iterator[Stack]:
    """All processes, without a consumer; a killed broker has lost its messages."""
    with stack(tmp_path, server, tansu_server) as found:
        yield found


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The variables of a storage in which Tansu keeps its messages."""
    if program() is None:
        pytest.skip("SeaweedFS is not in .venv/seaweedfs: ./bootstrap --test")
    with storage(tls=False) as found:
        yield {
            "url": found.variables["S3_URL"] + "/",
            "AWS_ACCESS_KEY_ID": found.variables["S3_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": found.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT": f"http://{found.variables['S3_ENDPOINT']}",
            "AWS_ALLOW_HTTP": "true",
        }


def test_a_run_is_stored_with_its_record_and_a_message_that_postgresql_refuses(running: Stack) -> None:
    store_an_hour(running)
    assert running.query("select count(*) from raw.city_settings") == [(CITIES,)]
    ((city, reason),) = running.query("select city, reason from raw.quarantine")
    assert city == "C7"
    assert "PostgreSQL refuses the response" in str(reason)
    # The same responses again: Kafka does not recognise them, and PostgreSQL does.
    assert running.ingest(wait=20).wait(60) == EXIT.success
    assert running.summary()["waiting"] == 0
    running.drained()


def test_poison_messages_stop_nothing(running: Stack) -> None:
    poison = [b"", b"\n", b"no row", b"1\tX\tmetric\t{}\n2\tY\tmetric\t{}\n", b"1\tX\tparsecs\t{}\n"]
    records = [b"", b"[]", b'{"run": "x"}']

    async def publish() -> None:
        publisher = await open_publisher(Access.read(running.broker.environment("ingestion")))
        await publisher.publish([("weather.observations.1", line) for line in poison])
        await publisher.publish([("weather.runs", record) for record in records])
        await publisher.close()

    asyncio.run(publish())
    store_all_but(len(poison) + len(records), running)


def test_the_ingestion_refuses_to_fill_the_disk(tmp_path: Path, server: pg.Server) -> None:
    with stack(tmp_path, server, tansu_server, disk=60_000) as running:
        fill(running)
        assert "broker: full: " in running.summary()["problem"]
        empty(running)


def test_the_state_is_shown_while_the_broker_answers(running: Stack) -> None:
    with running.broker.trimmed():
        assert running.hour() == EXIT.success
        until(lambda: "homelab_broker_messages 0\n" not in running.broker.shown("metrics"))
        state = json.loads(running.broker.shown("json"))
        assert (state["consumers"], state["limit_bytes"], state["problem"]) == (5, running.broker.disk, "")
        running.consume()
        until(lambda: "homelab_broker_messages 0\n" in running.broker.shown("metrics"))
        # Tansu cannot delete messages.
        assert "cannot delete stored messages" in json.loads(running.broker.shown("json"))["problem"]


def test_a_client_verifies_the_certificate(running: Stack, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with tansu_server(other) as stranger:
        environment = running.broker.environment("ingestion", stranger.line.port)
        with pytest.raises(BrokerError, match="broker: "):
            asyncio.run(open_publisher(Access.read(environment)))


def test_several_consumers_share_the_work(tmp_path: Path, server: pg.Server) -> None:
    with stack(tmp_path, server, tansu_server) as running:
        for part in range(2):
            running.consume(part, 2)
        assert running.hour(wait=20) == EXIT.success
        running.drained()
        states = [tmp_path / f"consumer-{part}" / "state.json" for part in range(2)]
        until(lambda: sum(json.loads(each.read_text())["stored"] for each in states) == CITIES)
        assert 0 < json.loads(states[0].read_text())["stored"] < CITIES
        for part, consumer in enumerate(running.consumers):
            consumer.terminate()
            assert consumer.wait(20) == EXIT.success
            assert (tmp_path / f"consumer-{part}" / "log").read_text() == ""


def test_kills_of_broker_consumer_and_postgresql(tmp_path: Path, server: pg.Server, s3: dict[str, str]) -> None:
    with stack(tmp_path, server, tansu_server, storage=s3) as running:
        kill_each(running, 1, 0.4, 0.8)


def test_outages_and_the_way_from_the_spool_to_kafka_and_nats_lose_nothing(
    tmp_path: Path, server: pg.Server, s3: dict[str, str]
) -> None:
    with stack(tmp_path, server, tansu_server, storage=s3) as running:
        # PostgreSQL and the consumer are away: the broker holds the responses.
        assert running.hour() == EXIT.success
        assert running.summary()["waiting"] == CITIES
        # The broker is away, too: the spool holds them.
        running.broker.kill()
        assert running.hour() == EXIT.failed
        assert (running.summary()["spooled"], running.spooled()) == (CITIES, CITIES)
        assert "broker" in running.summary()["problem"]
        running.broker.start()
        assert running.hour() == EXIT.success
        assert running.spooled() == 0
        running.broker.kill()
        assert running.hour() == EXIT.failed
        # The ingestion publishes its spool to NATS, while Kafka's consumer stores the former messages.
        running.broker.start()
        running.consume()
        kafka = running.broker
        with nats_server(tmp_path / "nats") as running.broker:
            assert running.hour() == EXIT.success
            assert running.spooled() == 0
            running.consume()
            until(lambda: kafka.report()["messages"] == 0)
            running.drained()


def test_a_killed_ingestion_repeats_its_spool(running: Stack) -> None:
    kill_ingestion(running, 1)


def test_cuts_of_the_network(running: Stack) -> None:
    with FlakyProxy(running.postgres.port) as to_postgres:
        running.postgres_port = to_postgres.port
        cut_each(running, [running.broker.line, to_postgres])
