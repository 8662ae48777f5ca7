"""The services broker and consumer: their inventory, their identities, their settings, and their health."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from homelab.commands.pipeline_copy import copy_pipeline
from homelab.errors import InputError
from homelab.host import Result
from homelab.model import ServiceContext
from homelab.model.firewall import desired_firewall
from homelab.pipelines.broker_contract import CONSUMERS
from homelab.services.broker import Broker, identities
from homelab.services.consumer import Consumer
from homelab.steps import Refuse
from tests.scripts import IN_CONTAINER, SCRIPTS
from tests.unit.test_ingestion_service import context, files, inventory, steps

from broker_client import consumer_of, part_of, subjects  # isort: skip
from consumer import shares  # isort: skip

INGESTION = "ingest: {vmid: 198, ip: .98, cores: 1, memory: 512, services: {ingestion: {}}}"


def overlay(consumers: int = 1, to: str = "broker", broker: str = "{}", more: str = "") -> str:
    """Return an overlay with a broker and consumers."""
    each = [
        f"  consumer-{n}: {{vmid: {180 + n}, ip: .{180 + n}, cores: 1, memory: 256, services: {{consumer: {{}}}}}}\n"
        for n in range(consumers)
    ]
    return (
        f"containers:\n  broker: {{vmid: 179, ip: .179, cores: 1, memory: 512, services: {{broker: {broker}}}}}\n"
        f"{''.join(each)}{more}pipelines: {{weather: {{to: {to}}}}}\n"
    )


def broker_context(folder: Path, consumers: int = 1, container: str = "broker") -> ServiceContext:
    """Return the context of a container of an inventory with a broker."""
    return context(inventory(folder, overlay(consumers)), container)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pipelines: {weather: {to: broker}}", r"pipelines\.weather\.to: needs the service `broker`"),
        (overlay(0), r"pipelines\.weather\.to: needs the service `consumer`, which no container has"),
        (overlay(5), "at most 4 containers can share the work"),
        (overlay(to="kafka"), r"pipelines\.weather\.to: must be one of postgres, broker|must be"),
        (overlay(broker="{kind: rabbit}"), r"services\.broker\.kind: must be"),
        (overlay(broker="{disk: 1MB}"), r"services\.broker\.disk: must be"),
    ],
)
def test_inventory_errors(tmp_path: Path, text: str, error: str) -> None:
    with pytest.raises(InputError, match=error):
        inventory(tmp_path, text)


def test_an_ingestion_to_postgresql_needs_no_broker_and_gets_no_identity(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, overlay(to="postgres"))
    assert [each.user for each in identities(context(wanted, "broker"))] == ["setup", "consumer-consumer-0"]
    found = files(steps(wanted, "analytics-platform"))
    assert "NATS" not in found[f"{IN_CONTAINER}/pipeline.env"] + found[f"{IN_CONTAINER}/secrets.env"]


def test_each_identity_has_the_least_rights(tmp_path: Path) -> None:
    found = {each.user: list(each.publish) for each in identities(broker_context(tmp_path, 2))}
    assert found == {
        "setup": ["$JS.API.STREAM.>", "$JS.API.CONSUMER.>"],
        "ingestion": [*CONSUMERS.values(), "$JS.API.CONSUMER.INFO.WEATHER.*"],
        **{
            f"consumer-consumer-{number}": [
                *(f"$JS.API.CONSUMER.MSG.NEXT.WEATHER.{name}" for name in names),
                *(f"$JS.ACK.WEATHER.{name}.>" for name in names),
            ]
            for number, names in enumerate([["store-0", "store-2", "store-runs"], ["store-1", "store-3"]])
        },
    }
    assert len({each.password for each in identities(broker_context(tmp_path, 2))}) == len(found)


@pytest.mark.parametrize("consumers", [1, 2, 3, 4])
def test_consumers_share_all_subjects_once(consumers: int) -> None:
    found = [subject for part in range(consumers) for subject in shares(part, consumers)]
    assert sorted(found) == sorted(subjects())
    assert [consumer_of(subject) for subject in subjects()] == list(CONSUMERS)
    assert subjects() == list(CONSUMERS.values())


def test_a_city_is_always_in_the_same_part() -> None:
    lines = [b"1\tBerlin,DE\tmetric\t{}\n", b"2\tBerlin,DE\timperial\t{}\n", b"\tBerlin,DE\tmetric\tx\t1\tr\t00\n"]
    assert len({part_of(line) for line in lines}) == 1
    assert {part_of(b"1\tC%d\tm\t{}\n" % number) for number in range(50)} == {0, 1, 2, 3}


def test_only_the_container_of_the_ingestion_has_the_password(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, overlay(more=f"  {INGESTION}\n"))
    password = "NATS_PASSWORD="
    ingestion, analytics = (files(steps(wanted, name)) for name in ("ingest", "analytics-platform"))
    assert password in ingestion[f"{IN_CONTAINER}/secrets.env"]
    assert "WEATHER_TO=broker\nNATS_URL=tls://192.168.2.179:4222\n" in ingestion[f"{IN_CONTAINER}/pipeline.env"]
    assert password not in analytics[f"{IN_CONTAINER}/secrets.env"]
    assert "WEATHER_TO" not in analytics[f"{IN_CONTAINER}/pipeline.env"]


def test_the_firewall_admits_the_clients_only(tmp_path: Path) -> None:
    wanted = inventory(tmp_path, "defaults: {firewall: true}\n" + overlay(2))
    (container,) = (each for each in wanted.containers if each.name == "broker")
    sources = {rule.source for rule in desired_firewall(wanted, container).rules if rule.port == "4222"}
    assert sources == {"192.168.2.180", "192.168.2.181", "192.168.2.68"}


def test_the_configuration_has_no_age_limit_and_syncs_each_message(tmp_path: Path) -> None:
    found = files(steps(inventory(tmp_path, overlay()), "broker"))["/etc/homelab/broker.conf"]
    assert "sync_interval: always" in found
    assert 'listen: "192.168.2.179:4222"' in found
    assert 'http: "127.0.0.1:8222"' in found


def state(**facts: object) -> list[Result]:
    found = {"messages": 0, "bytes": 0, "limit_bytes": 1_000_000_000, "pending": 0, "unacknowledged": 0, "read": 0}
    return [Result("", 0, json.dumps({**found, **facts}).encode())]


@pytest.mark.parametrize(
    ("answers", "healthy", "summary"),
    [
        (state(), True, "0 messages waiting, 0% of 1GB"),
        (state(messages=1, unacknowledged=1), True, "1 message waiting, 0% of 1GB, 1 with the consumers"),
        (state(messages=9, pending=9, read=2), True, "9 messages waiting, 0% of 1GB"),
        (state(messages=9, pending=9), False, "9 messages waiting, 0% of 1GB; no consumer reads them"),
        (state(messages=9, bytes=800_000_000, read=1), False, "nearly full: 9 messages waiting, 80% of 1GB"),
        (state(messages=9, bytes=960_000_000, read=1), False, "full: 9 messages waiting, 96% of 1GB"),
        ([Result("", 1, b"")], False, "does not answer"),
    ],
)
def test_health_of_the_broker(answers: list[Result], healthy: bool, summary: str) -> None:
    health = Broker().assess(answers)
    assert (health.healthy, health.summary[: len(summary)]) == (healthy, summary)


@pytest.mark.parametrize(
    ("active", "reported", "now", "healthy", "summary"),
    [
        (True, {}, 1000, True, "7 rows stored, 1 known, 2 refused"),
        (True, {}, 1200, False, "has not reported for 200 s"),
        (
            True,
            {"problem": "PostgreSQL: away", "since": "2026-11-27"},
            1000,
            False,
            "waits since 2026-11-27: PostgreSQL",
        ),
        (False, {}, 1000, False, "does not run"),
        (True, None, 1000, False, "has not reported yet"),
        (True, [], 1000, False, "its report has an unexpected format"),
    ],
)
def test_health_of_the_consumer(active: bool, reported: object, now: int, healthy: bool, summary: str) -> None:
    facts = {"stored": 7, "unchanged": 1, "quarantined": 2, "problem": "", "since": "", "at": 1000.0}
    found = {**facts, **reported} if isinstance(reported, dict) else reported
    text = b"" if reported is None else json.dumps(found).encode()
    answers = [Result("", 0 if active else 3, b""), Result("", 0, text), Result("", 0, str(now).encode())]
    health = Consumer().assess(answers)
    assert (health.healthy, health.summary[: len(summary)]) == (healthy, summary)


def test_the_default_ingestion_does_not_import_the_client_of_the_broker() -> None:
    code = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); import ingest_weather; print('nats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_copy_of_the_weather_without_a_consumer_is_refused(tmp_path: Path) -> None:
    copy = copy_pipeline(tmp_path, "weather")
    text = overlay().replace("{weather: {", f"{{weather: {{path: {copy}, ")
    assert steps(inventory(tmp_path, text), "consumer-0")
    (copy / "scripts" / "consumer.py").unlink()
    with pytest.raises(InputError, match="the copy of the weather has no consumer"):
        steps(inventory(tmp_path, text), "consumer-0")


@pytest.mark.parametrize(
    ("report", "refused"),
    [(None, False), ('{"messages": 0, "bytes": 0}', False), ('{"messages": 10, "bytes": 9}', True), ("", True)],
)
def test_a_broker_with_waiting_messages_cannot_be_removed(tmp_path: Path, report: str | None, refused: bool) -> None:
    wanted = inventory(tmp_path, overlay(to="postgres"))
    title = "no messages are left in a broker"
    (other,) = (each for each in steps(wanted, "broker") if str(each) == title)
    assert "Cannot change `kind` of the broker" in str(other.error)
    (step,) = (each for each in steps(wanted, "postgres-data") if isinstance(each, Refuse) and str(each) == title)
    program = tmp_path / "report.py"
    if report is not None:
        program.write_text(f"print({report!r})" if report else "raise SystemExit(1)")
    probe = step.probe.replace("/opt/homelab/broker/report.py", str(program))
    done = subprocess.run(["sh", "-c", probe], capture_output=True, check=False)
    assert (step.check([Result("", done.returncode, done.stdout.strip())]) is not None) == refused
