"""The broker with `kind: kafka`: Redpanda's files, identities and rights, and the program that sets it up.

No package registry has the server: no test runs it. tests/integration/test_kafka.py runs the clients.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from homelab.certificates import Authority, Names
from homelab.errors import InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory, ServiceContext, Step
from homelab.model.firewall import desired_firewall
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import CONSUMERS
from homelab.services.broker import Broker
from homelab.services.redpanda import acls, topic_settings
from homelab.steps import Command, File, Packages, Refuse, Venv
from tests.scripts import IN_CONTAINER
from tests.unit.test_broker import state
from tests.unit.test_ingestion_service import context, steps
from tests.unit.test_openpgp import BOOKWORM, FINGERPRINT

from aiokafka.errors import KafkaConnectionError  # isort: skip
from aiokafka.structs import TopicPartition  # isort: skip
from broker_access import Access  # isort: skip
from broker_client import BrokerError  # isort: skip
from broker_kafka import KafkaReader, client_settings  # isort: skip

TOPICS = list(CONSUMERS.values())
REPOSITORY = {"uri": "https://linux.pkg.redpanda.com/apt", "suite": "redpanda-apt", "components": ["main"]}
TITLE = "no messages are left in a broker"


def inventory(
    folder: Path, consumers: int = 1, options: dict[str, Any] | None = None, repository: bool = True, **box: Any
) -> Inventory:
    """Return the shipped inventory with Redpanda and consumers."""
    (folder / "key").write_text("openweather-key")
    (folder / "key").chmod(0o600)
    (folder / "redpanda.asc").write_text(BOOKWORM)
    broker = {"kind": "kafka", **(options or {})}
    shape = {"vmid": 179, "ip": ".179", "cores": 1, "memory": 2048, "disk": 8, **box}
    containers = {"broker": {**shape, "services": {"broker": broker}}}
    for number in range(consumers):
        each = {"vmid": 180 + number, "ip": f".{180 + number}", "cores": 1, "memory": 256}
        containers[f"consumer-{number}"] = {**each, "services": {"consumer": {}}}
    key = {"key": str(folder / "redpanda.asc"), "fingerprint": FINGERPRINT}
    found = {
        "containers": containers,
        "pipelines": {"weather": {"api_key_file": str(folder / "key"), "to": "broker"}},
        **({"packages": {"repositories": {"redpanda": {**REPOSITORY, **key}}}} if repository else {}),
    }
    (folder / "own.yaml").write_text(json.dumps(found))
    return load([bundled_path("inventory.yaml"), folder / "own.yaml"])


def broker_steps(folder: Path, **options: Any) -> Sequence[Step]:
    return steps(inventory(folder, **options), "broker")


def broker_context(folder: Path, consumers: int = 1) -> ServiceContext:
    return context(inventory(folder, consumers), "broker")


def files(found: Sequence[Step]) -> dict[str, str]:
    return {each.path: each.content.decode(errors="replace") for each in found if isinstance(each, File)}


def named(found: Sequence[Step], title: str) -> Any:
    (step,) = (each for each in found if str(each) == title)
    return step


def test_it_listens_with_tls_and_passwords_on_its_address_only(tmp_path: Path) -> None:
    found = broker_steps(tmp_path)
    config = yaml.safe_load(files(found)["/etc/homelab/redpanda/redpanda.yaml"])
    assert list(config) == ["redpanda"]  # no HTTP proxy, and no schema registry
    server = config["redpanda"]
    assert server["kafka_api"] == [
        {"name": "lab", "address": "192.168.2.179", "port": 9092, "authentication_method": "sasl"}
    ]
    (tls,) = server["kafka_api_tls"]
    assert (tls["name"], tls["enabled"]) == ("lab", True)
    assert tls["cert_file"] == tls["key_file"] == "/etc/ssl/homelab/broker.pem"
    assert [each["address"] for each in (server["rpc_server"], *server["admin"])] == ["127.0.0.1", "127.0.0.1"]
    cluster = json.loads(files(found)["/etc/homelab/redpanda/.bootstrap.yaml"])
    assert cluster["admin_api_require_auth"] is cluster["kafka_enable_authorization"] is True
    assert cluster["superusers"] == ["setup"]
    assert cluster["auto_create_topics_enabled"] is cluster["enable_metrics_reporter"] is False


def test_no_waiting_message_is_removed(tmp_path: Path) -> None:
    topic = topic_settings(1_000_000_000)
    assert (topic["retention.ms"], topic["retention.bytes"], topic["write.caching"]) == (-1, -1, "false")
    assert topic["segment.bytes"] == 15_625_000
    assert topic_settings(16_000_000)["segment.bytes"] == 1 << 20
    assert topic_settings(1 << 40)["segment.bytes"] == 128 << 20
    cluster = json.loads(files(broker_steps(tmp_path))["/etc/homelab/redpanda/.bootstrap.yaml"])
    assert cluster["group_offset_retention_sec"] is None
    assert cluster["storage_min_free_bytes"] == 512 << 20


def test_no_secret_is_in_a_readable_file_or_in_a_command(tmp_path: Path) -> None:
    found = broker_steps(tmp_path)
    store = broker_context(tmp_path).secret_store
    for user in ("setup", "trim", "ingestion", "consumer-consumer-0"):
        password = store.secret(f"broker-{user}").reveal()
        for step in found:
            if isinstance(step, File) and password.encode() in step.content:
                assert (step.secret, step.mode) == (True, 0o600)
        assert password not in named(found, "the broker's identities, topics and rights").command


def test_each_identity_has_the_least_rights(tmp_path: Path) -> None:
    found = {
        user: [(list(each.operations), list(each.topics), list(each.groups)) for each in rights]
        for user, rights in acls(broker_context(tmp_path, 2)).items()
    }
    offsets = (["describe"], [], ["store"])
    assert found == {
        "setup": [],
        "trim": [(["describe", "delete"], TOPICS, []), offsets],
        "ingestion": [(["describe", "write"], TOPICS, []), offsets],
        "consumer-consumer-0": [(["describe", "read"], TOPICS[::2], []), (["read"], [], ["store"])],
        "consumer-consumer-1": [(["describe", "read"], TOPICS[1::2], []), (["read"], [], ["store"])],
    }


def test_its_package_cannot_start_its_own_units(tmp_path: Path) -> None:
    found = list(broker_steps(tmp_path))
    package = next(n for n, each in enumerate(found) if isinstance(each, Packages) and "redpanda" in each.names)
    for unit in ("redpanda.service", "redpanda-tuner.service"):
        assert found.index(named(found, f"{unit} is masked")) < package
    text = files(found)["/etc/systemd/system/homelab-broker.service"]
    assert "--redpanda-cfg /etc/homelab/redpanda/redpanda.yaml --smp=1 --memory=1536M" in text
    assert "NoNewPrivileges=yes" in text
    assert "fsync" not in text


def test_clients_have_the_address_the_login_and_the_limit(tmp_path: Path) -> None:
    found = inventory(tmp_path)
    ingestion = files(steps(found, "analytics-platform"))
    assert (
        "WEATHER_TO=broker\nKAFKA_URL=kafka://192.168.2.179:9092\nKAFKA_USER=ingestion\n"
        "KAFKA_CA_FILE=/etc/ssl/homelab/ca.crt\nKAFKA_LIMIT=1000000000\n"
    ) in ingestion[f"{IN_CONTAINER}/pipeline.env"]
    assert "KAFKA_PASSWORD=" in ingestion[f"{IN_CONTAINER}/secrets.env"]
    consumer = steps(found, "consumer-0")
    assert "KAFKA_USER=consumer-consumer-0\nKAFKA_PASSWORD=" in files(consumer)["/etc/homelab/consumer.env"]
    (venv,) = (each for each in consumer if isinstance(each, Venv))
    assert b"aiokafka==" in venv.lock
    assert b"nats-py" not in venv.lock


@pytest.mark.parametrize(
    ("user", "with_ca", "protocol"),
    [("x", True, "SASL_SSL"), ("", True, "SSL"), ("x", False, "SASL_PLAINTEXT"), ("", False, "PLAINTEXT")],
)
def test_the_client_logs_in_with_a_user_and_verifies_with_a_ca(
    tmp_path: Path, user: str, with_ca: bool, protocol: str
) -> None:
    (tmp_path / "ca.crt").write_text(Authority.create("lab", Names.of({"broker"}, set())).certificate)
    ca_file = str(tmp_path / "ca.crt") if with_ca else ""
    found = Access.read(
        {"KAFKA_URL": "kafka://10.0.0.5:9092", "KAFKA_USER": user, "KAFKA_PASSWORD": "p", "KAFKA_CA_FILE": ca_file}
    )
    settings = client_settings(found)
    assert (settings["bootstrap_servers"], settings["security_protocol"]) == ("10.0.0.5:9092", protocol)
    assert settings.get("sasl_mechanism") == ("SCRAM-SHA-256" if user else None)
    if with_ca:
        assert settings["ssl_context"].verify_mode is ssl.CERT_REQUIRED
        assert settings["ssl_context"].check_hostname


class FakeConsumer:
    """A consumer of one message, whose first commit fails."""

    def __init__(self) -> None:
        self.committed, self.failures, self.records = list[int](), 1, [SimpleNamespace(value=b"line", offset=7)]

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.partitions = partitions

    async def getmany(self, partition: TopicPartition, **_: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        found, self.records = self.records, []
        return {partition: found}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> None:
        """Answer."""

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        if self.failures:
            self.failures -= 1
            raise KafkaConnectionError
        self.committed += offsets.values()


def test_an_acknowledgement_that_failed_is_repeated_without_a_further_message() -> None:
    async def work() -> None:
        consumer = FakeConsumer()
        reader = KafkaReader(consumer, "weather.runs")
        delivery = await reader.read(10, 0.1)
        assert delivery.payloads == [b"line"]
        with pytest.raises(BrokerError, match="broker: "):
            await delivery.acknowledge()
        assert (await reader.read(10, 0.1)).payloads == []
        assert consumer.committed == [8]

    asyncio.run(work())


def test_the_firewall_admits_the_clients_only(tmp_path: Path) -> None:
    found = inventory(tmp_path, 2, firewall=True)
    (container,) = (each for each in found.containers if each.name == "broker")
    sources = {rule.source for rule in desired_firewall(found, container).rules if rule.port == "9092"}
    assert sources == {"192.168.2.180", "192.168.2.181", "192.168.2.68"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"repository": False}, "no repository of the inventory has Redpanda"),
        ({"template": "local:vztmpl/alpine-3.22-default_20250617_amd64.tar.xz"}, "its distribution is unknown"),
        ({"disk": 4}, "its disk is too small"),
        ({"options": {"disk": "7GB"}}, "its disk is too small"),
        ({"memory": 1024}, "must be at least 2048 MiB for its services"),
    ],
)
def test_inventories_that_cannot_be_deployed(tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    with pytest.raises(InputError) as caught:
        broker_steps(tmp_path, **changes)
    assert error in f"{caught.value} {caught.value.details}"


def test_an_unknown_processor_is_refused(tmp_path: Path) -> None:
    step = named(broker_steps(tmp_path), "Redpanda runs on this processor")
    assert isinstance(step, Refuse)
    probe = step.probe.replace("aarch64", "other")
    for flags, printed in (("flags: sse4_1 sse4_2", ""), ("flags: sse4_1", "t")):
        (tmp_path / "cpuinfo").write_text(flags)
        text = probe.replace("/proc/cpuinfo", str(tmp_path / "cpuinfo"))
        assert subprocess.run(["sh", "-c", text], capture_output=True, text=True).stdout.strip() == printed


@pytest.mark.parametrize(
    ("kind", "report", "refused"),
    [
        ("kafka", "templates/broker/kafka_report.py", False),
        ("nats", "templates/broker/report.py", False),
        ("kafka", '# "http://127.0.0.1:{port}/jsz?"\nprint(\'{"messages": 3, "bytes": 9}\')', True),
        ("kafka", '# "http://127.0.0.1:{port}/jsz?"\nprint(\'{"messages": 0, "bytes": 9}\')', False),
        ("nats", '# "http://127.0.0.1:{port}/state"\nraise SystemExit(1)', True),
        ("nats", None, False),
    ],
)
def test_the_kind_cannot_change_while_messages_wait(
    tmp_path: Path, kind: str, report: str | None, refused: bool
) -> None:
    step = named(broker_steps(tmp_path, options={"kind": kind}), TITLE)
    program = tmp_path / "report.py"
    if report is not None:
        program.write_text(bundled_path(report).read_text() if report.endswith(".py") else report)
    probe = step.probe.replace("/opt/homelab/broker/report.py", str(program))
    done = subprocess.run(["sh", "-c", probe], capture_output=True, check=False)
    assert (step.check([Result("", done.returncode, done.stdout.strip())]) is not None) == refused


def test_the_deploy_waits_for_the_state_of_all_topics(tmp_path: Path) -> None:
    step = named(broker_steps(tmp_path), "the broker shows its topics")
    program = tmp_path / "report.py"
    program.write_text('print(\'{"limit_bytes": 1000000000, "pending": 0, "consumers": 5, "read": 5}\')')
    text = step.command.replace("/opt/homelab/broker/report.py", str(program)).replace("sleep 1", "exit 9")
    assert subprocess.run(["sh", "-c", text]).returncode == 0
    program.write_text(program.read_text().replace("5,", "4,"))
    assert subprocess.run(["sh", "-c", text]).returncode == 9


def test_health_is_that_of_nats() -> None:
    health = Broker(kind="kafka").assess(state(messages=9, bytes=800_000_000, read=1))
    assert (health.healthy, health.summary[:44]) == (False, "nearly full: 9 messages waiting, 80% of 1GB.")
    health = Broker(kind="kafka").assess(state(problem="cannot delete stored messages: X"))
    assert (health.healthy, health.ready) == (False, True)
    assert health.summary == "0 messages waiting, 0% of 1GB; cannot delete stored messages: X"


class Admin(ThreadingHTTPServer):
    """Redpanda's admin API: its users with their passwords, and the requests that change something."""

    daemon_threads = True

    def __init__(self, users: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.users, self.changes = users, list[tuple[str, str, Any]]()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Admin

    def do_GET(self) -> None:
        """Answer a request."""
        user, _, password = b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode().partition(":")
        if self.server.users.get(user) != password:
            return self._answer(401)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.command != "GET":
            self.server.changes.append((self.command, self.path, body))
        name = self.path.removeprefix("/v1/security/users/")
        if self.command == "DELETE":
            del self.server.users[name]
        elif "security" in self.path and body:
            self.server.users[body["username"]] = body["password"]
        return self._answer(200)

    do_PUT = do_POST = do_DELETE = do_GET

    def _answer(self, status: int) -> None:
        text = json.dumps(list(self.server.users)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@pytest.fixture
def admin() -> Iterator[Admin]:
    server = Admin({"setup": "former", "gone": "x", "trim": "y"})
    yield server
    server.shutdown()
    server.server_close()


def set_up(folder: Path, admin: Admin) -> tuple[subprocess.CompletedProcess[str], list[list[str]], dict[str, Any]]:
    """Run the program with a stand-in for rpk; return its result, the commands of rpk, and its settings."""
    step = named(broker_steps(folder), "the broker's identities, topics and rights")
    assert isinstance(step, Command)
    settings = {
        **json.loads(step.stdin),
        "admin": f"http://127.0.0.1:{admin.server_port}",
        "former": str(folder / "former"),
    }
    log = folder / "rpk.log"
    rpk = folder / "rpk"
    rpk.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"print(json.dumps([os.environ['RPK_PASS'], *sys.argv[1:]]), file=open({str(log)!r}, 'a'))\n"
        'print(\'[{"name": "weather.runs"}]\')\n'
    )
    rpk.chmod(0o700)
    words = [sys.executable, str(bundled_path("templates/broker/kafka_setup.py"))]
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(words, input=json.dumps(settings), env=environment, capture_output=True, text=True)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return done, lines, settings


def test_set_up_makes_identities_topics_and_rights(tmp_path: Path, admin: Admin) -> None:
    (tmp_path / "former").write_text("former")
    done, commands, settings = set_up(tmp_path, admin)
    assert done.returncode == 0, done.stderr
    assert admin.users == settings["passwords"]  # also that of the setup itself; the others are deleted
    assert (tmp_path / "former").read_text() == settings["passwords"]["setup"]
    assert admin.changes[-1] == ("PUT", "/v1/cluster_config", {"upsert": settings["cluster"], "remove": []})
    assert {each[0] for each in commands} == {settings["passwords"]["setup"]}
    texts = [" ".join(each[1:]) for each in commands]
    created = [text.split()[3] for text in texts if " topic create " in f" {text}"]
    assert created == [topic for topic in TOPICS if topic != "weather.runs"]
    assert any("topic alter-config" in text and "--set retention.ms=-1" in text for text in texts)
    prefix = "--ignore-profile security acl"
    consumer = [text for text in texts if "User:consumer-consumer-0" in text]
    assert consumer == [
        f"{prefix} delete --allow-principal User:consumer-consumer-0 --no-confirm",
        f"{prefix} create --allow-principal User:consumer-consumer-0 --operation describe,read "
        + " ".join(f"--topic {topic}" for topic in TOPICS),
        f"{prefix} create --allow-principal User:consumer-consumer-0 --operation read --group store",
    ]
    # Again, with the password that it has now.
    assert set_up(tmp_path, admin)[0].returncode == 0


def test_set_up_without_a_valid_password_changes_nothing(tmp_path: Path, admin: Admin) -> None:
    done, commands, _ = set_up(tmp_path, admin)
    assert done.returncode != 0
    assert "Redpanda refuses the password of setup" in done.stderr
    assert (admin.changes, commands) == ([], [])
