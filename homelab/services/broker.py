"""The service broker: NATS JetStream, or Redpanda, between the ingestion and PostgreSQL, with TLS and identities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Annotated, ClassVar, Literal

from homelab.errors import HomelabError
from homelab.host import Result, accepts_connections
from homelab.model import Container, Endpoint, Health, Service, ServiceContext, Step
from homelab.model.options import Option, Size
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import CONSUMERS, SHARED_PARTS, STREAM
from homelab.pipelines.weather import BROKER_USER, broker_secret
from homelab.render import render
from homelab.services.broker_parts import (
    FOLDER,
    METRICS,
    MONITOR_PORT,
    REPORT_FILE,
    SANDBOX,
    SETUP,
    STATE,
    UNIT,
    consumer_user,
    parts,
    state_is_complete,
)
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.monitoring import SETTINGS
from homelab.services.password_stamp import Stamp, password_stamp
from homelab.services.redpanda import MEMORY as REDPANDA_MEMORY
from homelab.services.redpanda import PORT as REDPANDA_PORT
from homelab.services.redpanda import TRIM_UNIT, redpanda_steps
from homelab.steps import Command, Directory, File, Packages, Refuse, SystemdUnit, UvInstall, Venv, WaitFor

_NATS_PORT = 4222
_MEMORY = 64  # MiB, the aim of the server's garbage collector
_CONFIG = f"{SETTINGS}/broker.conf"
_REPORTS = {"nats": "/jsz?", "kafka": "/state"}  # a text that only the report of this kind has
_NEARLY_FULL, _FULL = 0.8, 0.95  # of the disk limit


@dataclass(frozen=True, slots=True)
class Identity:
    """A login at the broker, and the subjects to which it may publish; it reads only the replies to its requests."""

    user: str
    password: str
    publish: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker(Service):
    """NATS JetStream, or Redpanda with Kafka's protocol: keeps the responses on the way to PostgreSQL."""

    kind: Annotated[
        Literal["nats", "kafka"], Option("Program of the broker: NATS JetStream, or Redpanda with Kafka's protocol.")
    ] = "nats"
    disk: Annotated[
        Size,
        Option(
            "Disk for waiting messages; a full broker refuses further ones, which wait in the ingestion's spool.",
            low=Size("16MB"),
            part_of="disk",
        ),
    ] = Size("1GB")

    minimum_memory: ClassVar[int] = 128

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint for the ingestion and the consumers."""
        port, product = (REDPANDA_PORT, "Kafka") if self.kind == "kafka" else (_NATS_PORT, "NATS")
        return (
            Endpoint(name=self.kind, port=port, description=product, audience="dependents", tls=True, restricted=True),
        )

    def needed_memory(self) -> int:
        """Return the memory of its kind."""
        return REDPANDA_MEMORY if self.kind == "kafka" else self.minimum_memory

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the waiting messages."""
        return SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return the unit of the server; next to Redpanda, also the one that removes stored messages."""
        return (UNIT, TRIM_UNIT) if self.kind == "kafka" else (UNIT,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for the waiting messages, their limit, and the lag of the consumers."""
        return {"broker": METRICS}

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, certificate, configuration and unit, then the stream and its consumers, or the topics."""
        if self.kind == "kafka":
            return redpanda_steps(context, self.disk)
        return self._nats_steps(context)

    def _nats_steps(self, context: ServiceContext) -> Sequence[Step]:
        locks, user = bundled_path("pipelines/shared/requirements"), SANDBOX.user
        venv = Venv(f"{FOLDER}/venv", (locks / "broker.txt").read_bytes())
        certificate = server_certificate(context, "broker", user)
        config = File(
            _CONFIG,
            render(
                "broker/nats.conf.j2",
                name=context.container.name,
                address=context.container.address,
                port=_NATS_PORT,
                monitor_port=MONITOR_PORT,
                certificate=certificate.path,
                folder=SANDBOX.writable[0],
                disk=self.disk.bytes,
                identities=[asdict(each) for each in identities(context)],
            ),
            group=user,
            mode=0o640,
            secret=True,
        )
        text = render(
            "broker/homelab-broker.service.j2",
            program=f"{venv.path}/bin/nats-server",
            config=_CONFIG,
            memory=_MEMORY,
            sandbox=SANDBOX,
        )
        unit = File(f"/etc/systemd/system/{UNIT}", text)
        setup, report = (
            File(f"{FOLDER}/{name}", bundled_path(f"templates/broker/{name}").read_bytes())
            for name in ("setup.py", "report.py")
        )
        return (
            *SANDBOX.account(),
            Packages(["python3", "python3-venv", "ca-certificates", "dbus"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(FOLDER),
            venv,
            certificate,
            config,
            SANDBOX.file(),
            setup,
            report,
            unit,
            SystemdUnit(UNIT, triggered_by=[venv, certificate, config, unit], settle=0),
            WaitFor(
                "the broker answers", answers(context.container), context.container.name, context.failed, 60, early=True
            ),
            self._stream(context, f"{venv.path}/bin/python", setup),
        )

    def _stream(self, context: ServiceContext, python: str, setup: File) -> Command:
        """Return the step for the stream and its consumers; the password is on its standard input."""
        settings = {
            "url": f"tls://{context.container.address}:{_NATS_PORT}",
            "ca_file": CA_FILE,
            "stream": STREAM,
            "consumers": CONSUMERS,
            "disk": self.disk.bytes,
            "user": SETUP,
        }
        password = context.secret_store.secret(broker_secret(SETUP)).reveal()
        parts = [password_stamp(context, broker_secret(SETUP)), json.dumps(settings).encode(), setup.content]
        return Stamp("broker", hashlib.sha256(b"".join(parts)).hexdigest()).command(
            "the broker's stream and its consumers",
            SANDBOX.run(python, "-B", setup.path),
            json.dumps({**settings, "password": password}).encode(),
            [state_is_complete(self.disk.bytes)],
        )

    def health_probes(self) -> Sequence[str]:
        """Return the command for the state of the stream."""
        return (STATE,)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it has the stream, if this is not nearly full, and if a consumer reads waiting messages."""
        if not answers[0].ok:
            return Health(False, "does not answer, or has no stream: `homelab deploy` creates it")
        facts = json.loads(answers[0].text)
        share = facts["bytes"] / facts["limit_bytes"]
        count = facts["messages"]
        shown = f"{count} message{'' if count == 1 else 's'} waiting, {share:.0%} of {self.disk}"
        if facts["unacknowledged"]:
            shown += f", {facts['unacknowledged']} with the consumers"
        if share >= _FULL:
            spool = "the ingestion keeps further responses in its spool"
            return Health(False, f"full: {shown}; {spool}. See the consumer, or raise `disk`", facts, ready=True)
        if share >= _NEARLY_FULL:
            return Health(False, f"nearly full: {shown}. See the consumer, or raise `disk`", facts, ready=True)
        if facts.get("problem"):
            return Health(False, f"{shown}; {facts['problem']}", facts, ready=True)
        if facts["pending"] and not facts["read"]:
            return Health(False, f"{shown}; no consumer reads them", facts, ready=True)
        return Health(True, shown, facts)


def too_many(consumers: int) -> bool:
    """Check that more consumers share the work than there are parts of it."""
    return consumers > SHARED_PARTS


def identities(context: ServiceContext) -> Iterator[Identity]:
    """Yield all identities: that of the setup, the ingestion, and one for each consumer."""

    def identity(user: str, publish: Sequence[str]) -> Identity:
        return Identity(user, context.secret_store.secret(broker_secret(user)).reveal(), publish)

    inventory = context.inventory
    yield identity(SETUP, ("$JS.API.STREAM.>", "$JS.API.CONSUMER.>"))
    if inventory.weather and inventory.weather.to == "broker":
        subjects = tuple(CONSUMERS.values())
        yield identity(BROKER_USER, (*subjects, f"$JS.API.CONSUMER.INFO.{STREAM}.*"))
    for container in inventory.containers_with("consumer"):
        found = parts(inventory, container)
        reads = (f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{name}" for name in found)
        acknowledges = (f"$JS.ACK.{STREAM}.{name}.>" for name in found)
        yield identity(consumer_user(container), (*reads, *acknowledges))


def no_waiting_messages(context: ServiceContext) -> Iterator[Step]:
    """Yield the step that refuses to remove or replace a broker with messages that are not in PostgreSQL yet."""
    name, service = context.container.name, context.container.services.get("broker")
    same, action, back = "", "remove the broker from", "Put `broker` back, and remove it"
    if isinstance(service, Broker):
        same, action = f"grep -qF {quote(_REPORTS[service.kind])} {REPORT_FILE} || ", "change `kind` of the broker on"
        back = "Put the former `kind` back, and change it"
    yield Refuse(
        "no messages are left in a broker",
        f"[ ! -e {REPORT_FILE} ] || {same}{STATE} | grep -q '\"messages\": 0,' || echo t",
        HomelabError(
            f"Cannot {action} {name}: messages wait in it, or it does not answer",
            "Waiting messages are not in PostgreSQL yet.",
            f"{back} when `homelab status` shows `0 messages waiting`. To give the messages "
            f"up: `homelab ssh {name} -- rm {REPORT_FILE}`.",
        ),
    )


def answers(container: Container) -> str:
    """Return shell text that succeeds if the broker of a container accepts connections."""
    (endpoint,) = container.services["broker"].endpoints()
    return accepts_connections(container.address, endpoint.port)
