"""Redpanda as the broker: Kafka's protocol over TLS, identities by SCRAM with ACLs, packages of its own repository.

No test runs the server: no package registry has it. Tests run its clients with another broker of this protocol
(tests/integration/tansu_server.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from shlex import quote
from typing import Any

from homelab.distributions import DISTRIBUTIONS, distribution_of
from homelab.errors import HomelabError, InputError
from homelab.host import accepts_connections
from homelab.model import Container, ServiceContext, Step
from homelab.model.options import Size
from homelab.paths import bundled_path
from homelab.pipelines.broker_contract import CONSUMERS, GROUP, broker_variables
from homelab.pipelines.weather import BROKER_USER, broker_secret
from homelab.render import render
from homelab.services.broker_parts import (
    FOLDER,
    MONITOR_PORT,
    REPORT_FILE,
    SANDBOX,
    SETUP,
    UNIT,
    consumer_user,
    parts,
    state_is_complete,
)
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.masked_unit import masked_unit
from homelab.services.monitoring import SETTINGS
from homelab.services.password_stamp import Stamp, password_stamp
from homelab.steps import Command, Directory, File, Packages, Refuse, SystemdUnit, UvInstall, Venv, WaitFor

PORT = 9092
MEMORY = 2048  # MiB for one core, as its documentation requires
TRIM_UNIT = "homelab-broker-trim.service"
_TRIM = "trim"  # the identity that deletes the stored messages
_SERVER_MEMORY = 1536  # MiB
_DATA = f"{SANDBOX.writable[0]}/redpanda"
_FOLDER = f"{SETTINGS}/redpanda"
_FREE = 512 << 20  # bytes that stay free on the disk: with less, Redpanda refuses messages
_SYSTEM = 3 << 30  # bytes of the disk for the system and for Redpanda itself
_LARGEST = 4 << 20  # bytes of a message: a response has at most 1 MiB, and every character of it may be escaped


@dataclass(frozen=True, slots=True)
class Acl:
    """The operations that an identity may do with some topics or groups."""

    operations: Sequence[str]
    topics: Sequence[str] = ()
    groups: Sequence[str] = ()


def acls(context: ServiceContext) -> Mapping[str, Sequence[Acl]]:
    """Return the rights of each identity; that of the setup may do everything."""
    inventory, topics = context.inventory, tuple(CONSUMERS.values())
    offsets = Acl(("describe",), groups=(GROUP,))
    found = {SETUP: (), _TRIM: (Acl(("describe", "delete"), topics), offsets)}
    if inventory.weather and inventory.weather.to == "broker":
        found[BROKER_USER] = (Acl(("describe", "write"), topics), offsets)
    for container in inventory.containers_with("consumer"):
        share = tuple(parts(inventory, container).values())
        # It can move only the offsets of topics that it may read.
        found[consumer_user(container)] = (Acl(("describe", "read"), share), Acl(("read",), groups=(GROUP,)))
    return found


def topic_settings(disk: int) -> Mapping[str, int | str]:
    """Return the settings of the topics: no message is removed by its age, or by the size of the topic."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": -1,
        "retention.bytes": -1,
        "max.message.bytes": _LARGEST,
        # Redpanda frees the disk of whole segments.
        "segment.bytes": max(1 << 20, min(disk // 64, 128 << 20)),
        "write.caching": "false",
    }


def cluster_settings() -> Mapping[str, Any]:
    """Return the settings of the cluster with one server."""
    return {
        "superusers": [SETUP],
        "admin_api_require_auth": True,
        "kafka_enable_authorization": True,
        "auto_create_topics_enabled": False,
        "enable_metrics_reporter": False,  # to its vendor
        "group_offset_retention_sec": None,  # the offset of an idle group does not expire
        "group_topic_partitions": 1,
        "log_segment_size_min": 1 << 20,
        "segment_fallocation_step": 1 << 20,
        "space_management_enable": False,
        "storage_min_free_bytes": _FREE,
    }


def redpanda_steps(context: ServiceContext, disk: Size) -> Sequence[Step]:
    """Return the steps. Raises InputError without a repository, on an unknown distribution, or on a small disk."""
    container, locks, user = context.container, bundled_path("pipelines/shared/requirements"), SANDBOX.user
    _require_support(context, disk)
    venv = Venv(f"{FOLDER}/venv", (locks / "broker-kafka.txt").read_bytes())
    certificate = server_certificate(context, "broker", user)
    files = list(_server_files(context, certificate.path))
    report, setup, trim = (
        File(path, bundled_path(f"templates/broker/{name}").read_bytes())
        for path, name in (
            (REPORT_FILE, "kafka_report.py"),
            (f"{FOLDER}/setup.py", "kafka_setup.py"),
            (f"{FOLDER}/trim.py", "trim.py"),
        )
    )
    trims = list(_trim_files(context, disk.bytes))
    return (
        *SANDBOX.account(),
        _processor(container),
        Packages(["python3", "python3-venv", "ca-certificates", "dbus"]),
        UvInstall((locks / "uv.txt").read_bytes()),
        *(Directory(each) for each in (SETTINGS, FOLDER, _FOLDER)),
        venv,
        certificate,
        SANDBOX.file(),
        *files,
        # Its package starts these units, without TLS and without passwords.
        *map(masked_unit, ("redpanda.service", "redpanda-tuner.service")),
        Packages(["redpanda"]),
        SystemdUnit(UNIT, triggered_by=[certificate, *files], settle=0),
        WaitFor("Redpanda answers", accepts_connections(container.address, PORT), container.name, context.failed, 120),
        setup,
        _set_up(context, setup, disk.bytes),
        trim,
        *trims,
        SystemdUnit(TRIM_UNIT, triggered_by=[venv, trim, *trims], settle=0),
        report,
        _state_is_shown(disk.bytes),
    )


def _require_support(context: ServiceContext, disk: Size) -> None:
    container, sources = context.container, context.inventory.sources.repositories
    if not any("redpanda" in f"{repository.name} {repository.uri}" for repository in sources):
        raise InputError(
            "Cannot deploy broker with `kind: kafka`: no repository of the inventory has Redpanda",
            "The distributions do not package it; its own repository is not under `packages: repositories:`.",
            "Add it with its key as in docs/how-to/broker.md, or write `kind: nats`.",
        )
    if distribution_of(container.template) is None:
        raise InputError(
            f"Cannot deploy broker with `kind: kafka` on {container.name}: its distribution is unknown",
            f"Its template is {container.template}. Redpanda's packages are for {', '.join(DISTRIBUTIONS)}.",
            "Choose one of these templates, or write `kind: nats`.",
        )
    needed = disk.bytes + _FREE + _SYSTEM
    if container.shape.disk << 30 < needed:
        raise InputError(
            f"Cannot deploy broker with `kind: kafka` on {container.name}: its disk is too small",
            f"It has {container.shape.disk} GiB; {disk} for waiting messages need {needed / 2**30:.1f} GiB.",
            f"Raise `disk` of {container.name}, or reduce `disk` of its service `broker`.",
        )


def _processor(container: Container) -> Step:
    return Refuse(
        "Redpanda runs on this processor",
        '[ "$(uname -m)" = aarch64 ] || grep -qm1 sse4_2 /proc/cpuinfo || echo t',
        HomelabError(
            f"Cannot run Redpanda on {container.name}: its processor is not supported",
            "It needs x86_64 with SSE 4.2, or aarch64.",
            "Write `kind: nats`, or move the container to another node.",
        ),
    )


def _server_files(context: ServiceContext, certificate: str) -> Iterator[File]:
    """Yield configuration, the settings of the first start, its first identity, and the unit."""
    config = render(
        "broker/redpanda.yaml.j2", address=context.container.address, port=PORT, certificate=certificate, folder=_DATA
    )
    yield File(f"{_FOLDER}/redpanda.yaml", config)
    yield File(f"{_FOLDER}/.bootstrap.yaml", f"{json.dumps(cluster_settings(), indent=2)}\n".encode())
    login = render("broker/redpanda.env.j2", user=SETUP, password=_password(context, SETUP))
    yield File(_login(UNIT), login, mode=0o600, secret=True)
    unit = render(
        "broker/redpanda.service.j2",
        config=f"{_FOLDER}/redpanda.yaml",
        folder=_DATA,
        memory=_SERVER_MEMORY,
        environment=_login(UNIT),
        sandbox=SANDBOX,
    )
    yield File(f"/etc/systemd/system/{UNIT}", unit)


def _set_up(context: ServiceContext, setup: File, disk: int) -> Command:
    """Return the step for settings, identities, topics and rights; the passwords are on its standard input."""
    rights = acls(context)
    settings = {
        "admin": "http://127.0.0.1:9644",
        "brokers": f"{context.container.address}:{PORT}",
        "ca_file": CA_FILE,
        "user": SETUP,
        "cluster": cluster_settings(),
        "topics": tuple(CONSUMERS.values()),
        "topic": topic_settings(disk),
        "acls": {user: [asdict(each) for each in found] for user, found in rights.items()},
        "former": f"{SANDBOX.writable[0]}/setup-password",
    }
    stamps = [password_stamp(context, broker_secret(user)) for user in rights]
    digest = hashlib.sha256(b"".join([*stamps, json.dumps(settings).encode(), setup.content]))
    passwords = {user: _password(context, user) for user in rights}
    return Stamp("broker", digest.hexdigest()).command(
        "the broker's identities, topics and rights",
        SANDBOX.run("/usr/bin/python3", "-B", setup.path),
        json.dumps({**settings, "passwords": passwords}).encode(),
        [state_is_complete(disk)],
    )


def _state_is_shown(disk: int) -> Command:
    """Return the step that waits for the first look of the program that deletes stored messages."""
    complete = state_is_complete(disk)
    waiting = f"for _ in $(seq 60); do {complete} && exit; sleep 1; done; exit 1"
    return Command("the broker shows its topics", complete, f"sh -c {quote(waiting)}")


def _trim_files(context: ServiceContext, disk: int) -> Iterator[File]:
    """Yield the login and the unit of the program that deletes stored messages."""
    variables = broker_variables(context.inventory, _TRIM, CA_FILE, _password(context, _TRIM))
    yield File(_login(TRIM_UNIT), render("consumer/broker.env.j2", variables=variables), mode=0o600, secret=True)
    words = [f"--port={MONITOR_PORT}", f"--limit={disk}", f"--folder={_DATA}/kafka", f"--group={GROUP}"]
    text = render(
        "broker/homelab-broker-trim.service.j2",
        python=f"{FOLDER}/venv/bin/python",
        program=f"{FOLDER}/trim.py",
        words=[*words, *CONSUMERS.values()],
        environment=_login(TRIM_UNIT),
        sandbox=SANDBOX,
    )
    yield File(f"/etc/systemd/system/{TRIM_UNIT}", text)


def _password(context: ServiceContext, user: str) -> str:
    return context.secret_store.secret(broker_secret(user)).reveal()


def _login(unit: str) -> str:
    return f"{SETTINGS}/{unit.removeprefix('homelab-').removesuffix('.service')}.env"
