"""Airflow's login to the gates on the containers of the pipelines: its key, their host keys, and the wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from homelab.model import Container, ServiceContext
from homelab.model.stages import STAGES
from homelab.sandbox import Sandbox
from homelab.services import ssh_peers
from homelab.steps import File, WaitFor

FOLDER = "/etc/airflow"
KEY = f"{FOLDER}/analytics.key"
LOGIN = "analytics"  # the user with the gate
_KNOWN_HOSTS = f"{FOLDER}/known_hosts"
_CLIENT = "Airflow"
# From OpenSSH 9.8 on, each refused login adds a penalty of 5 s to its address, and at 15 s sshd refuses the address.
_LOGIN_INTERVAL = 5.5  # seconds


def host_key(context: ServiceContext, container: Container) -> str:
    """Return the SSH host key of a container of the pipelines. Raises HomelabError if it is not known yet."""
    return ssh_peers.host_key(context, container, _CLIENT)


def known_hosts_file(context: ServiceContext) -> File:
    """Return the step for the host keys of the containers. Raises HomelabError for one that is not known yet."""
    return ssh_peers.known_hosts(context, _KNOWN_HOSTS, _containers(context), _CLIENT)


def wait_for_gates(context: ServiceContext, sandbox: Sandbox) -> Iterator[WaitFor]:
    """Yield the steps that wait until each gate accepts Airflow's key."""
    for container in _containers(context):
        yield WaitFor(
            f"{container.name} accepts Airflow's key",
            _refused_by_gate(sandbox, str(container.address)),
            container.name,
            context.failed,
            context.wait_deadline(container),
            interval=_LOGIN_INTERVAL,
        )


def _containers(context: ServiceContext) -> Sequence[Container]:
    """Return the containers with a gate."""
    found = {container.name: container for container in map(context.inventory.container_of, STAGES)}
    return list(found.values())


def _refused_by_gate(sandbox: Sandbox, address: str) -> str:
    """Return shell text that succeeds when the gate behind Airflow's key works: it refuses an unknown command."""
    words = ssh_peers.ssh_command(KEY, _KNOWN_HOSTS, 3)
    login = sandbox.run(*words, f"{LOGIN}@{address}", "nothing")
    return f"{login} 2>&1 | grep -q '^refused:'"
