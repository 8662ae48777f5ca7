"""The service Redis: the queue between Airflow and its workers, over TLS; Valkey on Debian 13."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar
from urllib.parse import quote

from homelab.distributions import DISTRIBUTIONS, distribution_of
from homelab.errors import InputError
from homelab.host import Result
from homelab.model import Container, Endpoint, Health, Service, ServiceContext, Step
from homelab.model.options import Option, Size
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.services.lab_certificates import CA_FILE, server_certificate
from homelab.services.masked_unit import masked_unit
from homelab.services.monitoring import SETTINGS
from homelab.steps import Directory, File, Packages, SystemdUnit

PORT = 6379
LOGIN = "redis-password"  # the secret with the password
UNIT = "homelab-redis.service"
_SANDBOX = Sandbox("homelab-redis", ("/var/lib/homelab-redis",))
_CONFIG = f"{SETTINGS}/redis.conf"
_ENVIRONMENT = f"{SETTINGS}/redis-client.env"
_CLIENT = "/usr/local/sbin/homelab-redis"
_FULL = 0.95  # of the memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Redis(Service):
    """Redis, or Valkey on Debian 13: the queue between Airflow and its workers."""

    memory: Annotated[
        Size,
        Option("Memory for the waiting tasks; a full Redis refuses further ones.", low=Size("16MB"), part_of="memory"),
    ] = Size("128MB")

    minimum_memory: ClassVar[int] = 256

    def endpoints(self) -> Sequence[Endpoint]:
        """Return the endpoint for the containers with Airflow and its workers."""
        return (
            Endpoint(
                name="redis",
                port=PORT,
                description="Redis",
                audience="dependents",
                tls=True,
                credentials=(LOGIN,),
                restricted=True,
            ),
        )

    def data_folders(self) -> Sequence[str]:
        """Return the folder with the waiting tasks."""
        return _SANDBOX.writable

    def units(self) -> Sequence[str]:
        """Return its unit, which has the same name for Redis and Valkey."""
        return (UNIT,)

    def metric_commands(self, context: ServiceContext) -> Mapping[str, str]:
        """Return the command for its memory and its clients."""
        names = "used_memory|maxmemory|connected_clients"
        return {"redis": f"{_CLIENT} info | sed -nE 's/^({names}):([0-9]+).*/homelab_redis_\\1 \\2/p'"}

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, certificate, configuration, package and unit. Raises InputError for an unknown distribution."""
        program, password = _program(context.container), context.secret_store.secret(LOGIN).reveal()
        user = _SANDBOX.user
        certificate = server_certificate(context, "redis", user)
        address = context.container.address
        config = File(
            _CONFIG,
            render(
                "redis/redis.conf.j2",
                address=address,
                port=PORT,
                certificate=certificate.path,
                ca_file=CA_FILE,
                password_hash=hashlib.sha256(password.encode()).hexdigest(),
                memory=self.memory.bytes,
                folder=_SANDBOX.writable[0],
            ),
            group=user,
            mode=0o640,
            secret=True,
        )
        unit = File(
            f"/etc/systemd/system/{UNIT}",
            render("redis/homelab-redis.service.j2", program=f"{program}-server", config=_CONFIG, sandbox=_SANDBOX),
        )
        client = {"client": f"{program}-cli", "environment": _ENVIRONMENT, "ca_file": CA_FILE}
        return (
            *_SANDBOX.account(),
            certificate,
            Directory(SETTINGS),
            config,
            File(_ENVIRONMENT, render("redis/redis-client.env.j2", password=password), mode=0o600, secret=True),
            File(_CLIENT, render("redis/homelab-redis.j2", address=address, port=PORT, **client), mode=0o700),
            unit,
            masked_unit(f"{program}-server.service"),
            Packages([f"{program}-server", f"{program}-tools"]),
            SystemdUnit(UNIT, triggered_by=[certificate, config, unit], settle=0),
        )

    def health_probes(self) -> Sequence[str]:
        """Return the command for its statistics, over TLS and with the password."""
        return (f"{_CLIENT} info",)

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it answers and can take further messages."""
        facts = dict(line.partition(":")[::2] for line in answers[0].text.splitlines() if ":" in line)
        if not answers[0].ok or "used_memory" not in facts:
            return Health(False, "does not answer")
        used, limit = int(facts["used_memory"]), int(facts["maxmemory"])
        shown = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB used, {facts['connected_clients']} clients"
        if limit and used > limit * _FULL:
            return Health(False, f"full: {shown}; tasks cannot be queued. Raise `memory` under `redis:`")
        if facts.get("aof_last_write_status") not in ("ok", None):
            return Health(False, f"cannot write to its disk; {shown}")
        return Health(True, shown, {"used_memory": used, "maxmemory": limit})


def redis_url(container: Container, password: str) -> str:
    """Return the address for clients, which verify the certificate by the lab's CA."""
    query = f"ssl_cert_reqs=required&ssl_check_hostname=true&ssl_ca_certs={quote(CA_FILE, safe='')}"
    return f"rediss://:{quote(password, safe='')}@{container.address}:{PORT}/0?{query}"


def _program(container: Container) -> str:
    found = distribution_of(container.template)
    if found is None:
        raise InputError(
            f"Cannot deploy redis on {container.name}: its distribution is unknown",
            f"Its template is {container.template}. Redis is in the packages of {', '.join(DISTRIBUTIONS)}.",
            "Move `redis:` to a container with one of these templates.",
        )
    return found.redis
