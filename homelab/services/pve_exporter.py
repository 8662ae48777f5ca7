"""The service pve_exporter: the state of Proxmox's nodes, guests and storages as metrics, with a token that only reads.

A script starts its program, and verifies Proxmox's certificate as homelab does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, ClassVar

from homelab.distributions import CA_BUNDLE
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.model import Endpoint, Health, ProxmoxApi, ProxmoxToken, ServiceContext, Step
from homelab.model.inventory import DOMAIN, QUALIFIED_NAME
from homelab.model.options import Option, SecretName
from homelab.paths import bundled_path
from homelab.render import render
from homelab.services.monitoring import SETTINGS, Daemon, DaemonService
from homelab.steps import Directory, File, Packages, SystemdUnit, UvInstall, Venv

ACCOUNT = "homelab-monitoring@pve!exporter"  # the default name of its token, which the lab has, too
_ENVIRONMENT = f"{SETTINGS}/pve-exporter.env"
_CA_FILE = f"{SETTINGS}/proxmox-ca.pem"
_DAEMON = Daemon("pve-exporter", 9221, (_ENVIRONMENT,))
_FOLDER = "/opt/homelab/pve-exporter"
# The others send one request for each guest, or describe features that homelab does not use.
_LEFT_OUT = ("backup-info", "qdevice", "config", "replication", "subscription")


@dataclass(frozen=True, slots=True, kw_only=True)
class PveExporter(DaemonService):
    """pve_exporter: nodes, guests and storages of Proxmox."""

    daemon: ClassVar[Daemon] = _DAEMON
    minimum_memory: ClassVar[int] = 96

    host: Annotated[
        str | None,
        Option(
            "Host name or address of the Proxmox node for the container; by default that under `proxmox:`.",
            pattern=DOMAIN,
            expected="a host name or an address, without `https://`",
            examples=("192.168.2.10",),
        ),
    ] = None
    token_id: Annotated[
        str, Option("Name of its API token: user@realm!name.", pattern=QUALIFIED_NAME, expected="user@realm!name")
    ] = ACCOUNT
    token: Annotated[SecretName, Option("Secret of the token.")] = SecretName("pve-exporter", "pve_exporter")

    def endpoints(self) -> Sequence[Endpoint]:
        """Return that of the metrics."""
        return (
            Endpoint(
                name="metrics",
                port=_DAEMON.port,
                description="metrics of Proxmox",
                audience="dependents",
                protocol="http",
                metrics_path="/pve",
            ),
        )

    def proxmox_tokens(self) -> Sequence[ProxmoxToken]:
        """Return its token, which only reads."""
        return (
            ProxmoxToken(
                token_id=self.token_id,
                secret=self.token,
                role="PVEAuditor",
                privileges=("Datastore.Audit", "Sys.Audit", "VM.Audit"),
            ),
        )

    def steps(self, context: ServiceContext) -> Sequence[Step]:
        """Return user, venv, the token, and the unit."""
        locks = bundled_path("pipelines/shared/requirements")
        venv = Venv(f"{_FOLDER}/venv", (locks / "pve-exporter.txt").read_bytes())
        program = File(f"{_FOLDER}/start.py", bundled_path("templates/pve_exporter/start.py").read_bytes())
        files = [*self._trusted(context.inventory.endpoint), program, self._environment(context)]
        unit = File(
            f"/etc/systemd/system/{_DAEMON.unit}",
            render(
                "pve_exporter/pve-exporter.service.j2",
                venv=venv.path,
                program=program.path,
                arguments=[
                    f"--web.listen-address={context.container.address}:{_DAEMON.port}",
                    *(f"--no-collector.{name}" for name in _LEFT_OUT),
                ],
                sandbox=_DAEMON.sandbox,
            ),
        )
        return (
            *_DAEMON.sandbox.account(),
            Packages(["python3", "python3-venv", "ca-certificates"]),
            UvInstall((locks / "uv.txt").read_bytes()),
            Directory(SETTINGS),
            Directory(_FOLDER),
            venv,
            *files,
            unit,
            SystemdUnit(_DAEMON.unit, triggered_by=[venv, *files, unit]),
        )

    def _environment(self, context: ServiceContext) -> File:
        api = context.inventory.endpoint
        user, _, name = self.token_id.partition("!")
        text = render(
            "pve_exporter/pve-exporter.env.j2",
            api=api,
            host=self.host or _reachable(api.host),
            ca_file=_CA_FILE if api.ca_file else CA_BUNDLE,
            user=user,
            token_name=name,
            token=context.user_secrets([self.token])[self.token].reveal(),
        )
        return File(_ENVIRONMENT, text, mode=0o600, secret=True)

    def _trusted(self, api: ProxmoxApi) -> Iterator[File]:
        """Yield the CA of the inventory, if it has one. Raises HomelabError if its file cannot be read."""
        if api.ca_file and not api.fingerprint:
            try:
                yield File(_CA_FILE, api.ca_file.read_bytes())
            except OSError as error:
                raise HomelabError(
                    f"Cannot use the CA file {api.ca_file}: it is unreadable or invalid",
                    f"{error}.",
                    "Copy /etc/pve/pve-root-ca.pem from the node to it, or pin `fingerprint`.",
                ) from error

    def health_probes(self) -> Sequence[str]:
        """Return requests to the program, and for the states that it reads from Proxmox."""
        return (_DAEMON.request("/"), _DAEMON.request("/pve", "^pve_up"))

    def health(self, answers: Sequence[Result]) -> Health:
        """Return healthy if it reads from Proxmox."""
        if not answers[0].ok:
            return Health(False, "does not answer")
        if not answers[1].ok:
            return Health(False, "Proxmox does not answer it, or refuses its token: see `homelab doctor`")
        guests = len(re.findall(r'^pve_up\{id="(?:lxc|qemu)/', answers[1].text, re.MULTILINE))
        return Health(True, f"reads {guests} guests of Proxmox", {"guests": guests})


def _reachable(host: str) -> str:
    """Return the host. Raises InputError for this machine's loopback, which is the container's own there."""
    try:
        loopback = ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback:
        raise InputError(
            "Cannot deploy pve_exporter: the Proxmox API has only an address of this machine",
            f"`host: {host}` under `proxmox:` is the container itself, in a container.",
            "Write the node's address as `host` under `pve_exporter:`.",
        )
    return host
