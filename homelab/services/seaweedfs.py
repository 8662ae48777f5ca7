"""SeaweedFS, the server of the service s3: master, volumes, filer and S3 in one process.

All its ports are on loopback, where its internal ones ask for no key. A socket of systemd opens only S3 to others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.errors import InputError
from homelab.host import Result, argv
from homelab.model import Container, Endpoint, Health, ServiceContext, Step
from homelab.model.options import Size
from homelab.paths import bundled_path
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.monitoring import SETTINGS, Daemon
from homelab.steps import Command, Directory, File, Packages, SystemdUnit, UvInstall, Venv, WaitFor

FOLDER = "/var/lib/homelab-s3"
PIPELINE = "pipeline-"  # prefix of the buckets and users of the pipelines
UNITS = ("homelab-s3.service", "homelab-s3.socket")
CLI = "/usr/local/sbin/homelab-s3"
_SANDBOX = Sandbox("homelab-s3", (FOLDER,))
_VENV = "/opt/homelab/s3/venv"
_WEED = f"{_VENV}/bin/weed"
_USERS = f"{SETTINGS}/s3.json"
_LOOPBACK = "127.0.0.1"
METRICS_PORT = 9327
_INNER_PORT, _MASTER_PORT = 8334, 9333
_FREE = f"df --block-size=1 --output=avail {FOLDER} | tail -n 1"  # prints bytes
_DEADLINE = 120  # seconds of a start, which takes five on an idle machine
_VOLUMES = 256  # the disk has about as many volumes; each bucket needs one
# Prints the status of the answer to a request; a wrong certificate fails. Without a proxy of the environment.
_ANSWER = """import ssl, sys, urllib.error, urllib.request as r
url, ca = sys.argv[1:]
https = r.HTTPSHandler(context=ssl.create_default_context(cafile=ca))
try:
    print(r.build_opener(r.ProxyHandler({}), https).open(url, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    sys.exit(str(error))"""
# After a start, S3 answers before the master knows the volumes, and cannot read objects until then.
_HAS_VOLUMES = Daemon("seaweedfs", _MASTER_PORT).request("/dir/status", only="DataNodes")


@dataclass(frozen=True, slots=True)
class Identity:
    """The rights of a user: the buckets that it may read, and those that it may read and write."""

    read: Sequence[str]
    write: Sequence[str]

    @property
    def actions(self) -> Sequence[str]:
        """The actions in SeaweedFS' configuration."""
        read = [f"{action}:{bucket}" for bucket in (*self.read, *self.write) for action in ("Read", "List")]
        write = [f"{action}:{bucket}" for bucket in self.write for action in ("Write", "Tagging")]
        return sorted({*read, *write})


@dataclass(frozen=True, slots=True)
class Settings:
    """The port for clients, the free space below which it only reads, its buckets, and its users by name."""

    port: int
    reserve: Size
    buckets: Sequence[str]
    users: Mapping[str, Identity]


def secret_name(user: str) -> str:
    """Return the name of the secret with a user's secret key."""
    return f"s3-{user}"


def metrics_endpoint() -> Endpoint:
    """Return the endpoint of its metrics."""
    return Endpoint(
        name="metrics",
        port=METRICS_PORT,
        description="metrics of the object storage",
        audience="dependents",
        protocol="http",
        metrics_path="/metrics",
        restricted=True,
    )


def https_answer(address: str, path: str, ca_file: str) -> str:
    """Return shell text that prints the status of an answer over TLS, verified by a CA."""
    return f"python3 -c {quote(_ANSWER)} https://{quote(address)}{quote(path)} {quote(ca_file)}"


def server_steps(context: ServiceContext, settings: Settings) -> Sequence[Step]:
    """Return users, program, certificate, unit, port and buckets.

    Raises InputError for a right on the bucket of a pipeline that the inventory does not have.
    """
    locks = bundled_path("pipelines/shared/requirements")
    venv = Venv(_VENV, (locks / "seaweedfs.txt").read_bytes())
    certificate = server_certificate(context, "s3", _SANDBOX.user)
    users = File(_USERS, _identities(context, settings), group=_SANDBOX.user, mode=0o640, secret=True)
    unit = _unit(UNITS[0], program=_WEED, arguments=_arguments(context, settings, certificate.path), sandbox=_SANDBOX)
    socket = _unit(UNITS[1], address=context.container.address, port=settings.port)
    proxy = _unit("homelab-s3-proxy.service", inner_port=_INNER_PORT, sandbox=_SANDBOX)
    shell = _SANDBOX.as_user("env", f"HOME={FOLDER}", _WEED, "shell", f"-master={_LOOPBACK}:{_MASTER_PORT}")
    return (
        *_SANDBOX.account(),
        Packages(["python3", "python3-venv", "ca-certificates"]),
        UvInstall((locks / "uv.txt").read_bytes()),
        Directory(SETTINGS),
        Directory("/opt/homelab/s3"),
        venv,
        certificate,
        users,
        File(CLI, render("s3/homelab-s3.j2", shell=shell), mode=0o700),
        unit,
        proxy,
        socket,
        # Restarted, as a reload keeps the users that the file no longer has.
        SystemdUnit(UNITS[0], triggered_by=[venv, certificate, users, unit]),
        SystemdUnit(UNITS[1], triggered_by=[socket, proxy], settle=0),
        WaitFor(
            "SeaweedFS answers",
            f"{_answer(settings.port)} | grep -qx 200 && {_HAS_VOLUMES}",
            context.container.name,
            context.failed,
            _DEADLINE,
        ),
        *map(_bucket, settings.buckets),
    )


def _unit(name: str, **values: object) -> File:
    return File(f"/etc/systemd/system/{name}", render(f"s3/{name}.j2", **values))


def _identities(context: ServiceContext, settings: Settings) -> bytes:
    """Return the users with their keys and rights. Raises InputError for a bucket that does not exist."""
    for name, user in settings.users.items():
        if missing := sorted({*user.read, *user.write}.difference(settings.buckets)):
            raise InputError(
                f"Cannot deploy s3: the user {name} has rights on a missing bucket",
                f"No pipeline of the inventory has the bucket {', '.join(missing)}.",
                f"Correct `users:` under `s3:` in {context.inventory.path}. Buckets: {', '.join(settings.buckets)}.",
            )
    identities = [
        {
            "name": name,
            "credentials": [{"accessKey": name, "secretKey": context.secret_store.secret(secret_name(name)).reveal()}],
            "actions": user.actions,
        }
        for name, user in settings.users.items()
    ]
    return (json.dumps({"identities": identities}, indent=1) + "\n").encode()


def _arguments(context: ServiceContext, settings: Settings, certificate: str) -> Sequence[str]:
    return (
        "-logtostderr=true",
        "server",
        f"-dir={FOLDER}",
        f"-ip={_LOOPBACK}",
        f"-ip.bind={_LOOPBACK}",
        f"-master.port={_MASTER_PORT}",
        f"-master.volumeSizeLimitMB={_volume_size(context.container)}",
        "-master.telemetry=false",
        "-volume.max=0",  # as many as the disk has space for
        f"-volume.minFreeSpace={settings.reserve.bytes}B",
        "-volume.preStopSeconds=1",
        "-filer",
        "-s3",
        f"-s3.port={_INNER_PORT}",
        f"-s3.cert.file={certificate}",
        f"-s3.key.file={certificate}",
        f"-s3.config={_USERS}",
        "-s3.iam=false",  # users come from the file only
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-metricsIp={context.container.address}",
        f"-metricsPort={METRICS_PORT}",
    )


def _volume_size(container: Container) -> int:
    """Return the MB of a volume: with few large volumes, a small disk would have too few of them for its buckets."""
    mount = next((each for each in container.shape.mounts if each.path == FOLDER), None)
    disk = mount.size if mount else container.shape.disk
    return int(min(max(64, disk * 1024 // _VOLUMES), 30_000))


def _bucket(name: str) -> Command:
    listed = argv("grep", "-qE", f"^ *{name.replace('.', '[.]')}[[:space:]]")
    return Command(
        f"bucket {name}", f"{argv(CLI, 's3.bucket.list')} | {listed}", argv(CLI, f"s3.bucket.create -name {name}")
    )


def _answer(port: int) -> str:
    """Return shell text that prints the status of an answer of S3 at the port for clients."""
    listens = f"$(ss -Hltn {quote(f'sport = :{port}')} | awk '{{print $4; exit}}')"
    return f'python3 -c {quote(_ANSWER)} https://"{listens}"/healthz {CA_FILE}'


def server_health_probes(port: int) -> Sequence[str]:
    """Return the commands for its answer at the port for clients, its volumes and buckets, and the free space."""
    return (_answer(port), _HAS_VOLUMES, argv(CLI, "s3.bucket.list"), _FREE)


def server_metrics(reserve: Size) -> str:
    """Return shell text that prints the free space of the disk, and that below which SeaweedFS only reads."""
    return f'echo "homelab_s3_free_bytes $({_FREE})"; echo homelab_s3_reserve_bytes {reserve.bytes}'


def server_health(answers: Sequence[Result], reserve: Size) -> Health:
    """Return healthy if it answers, and its disk has space."""
    answer, volumes, listed, space = answers
    if not answer.ok or answer.text != "200" or not volumes.ok:
        return Health(False, "does not answer")
    buckets = {line.split()[0]: int(line.split("size:")[1].split()[0]) for line in listed.text.splitlines()}
    free, used = int(space.text), sum(buckets.values())
    facts = {"buckets": buckets, "free": free}
    text = f"{len(buckets)} buckets with {used / 1e9:.1f} GB; {free / 1e9:.1f} GB of the disk are free"
    if free < reserve.bytes:  # ready: a deploy continues
        return Health(False, f"full: only reads; {text}. Enlarge `disk` of its container", facts, ready=True)
    return Health(True, text, facts)
