"""SSH from one container to another: the host keys that a client verifies, and the options of its `ssh`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from homelab.errors import HomelabError
from homelab.model import Container, ServiceContext
from homelab.steps import File


def host_key(context: ServiceContext, container: Container, client: str) -> str:
    """Return the SSH host key of a container. Raises HomelabError, which names the client, if it is not known yet."""
    if container.name not in context.host_keys:
        raise HomelabError(
            f"Cannot configure {context.container.name}: the SSH host key of {container.name} is not known yet",
            f"{client} has to verify this key when it connects.",
            "Run `homelab up` first.",
        )
    return context.host_keys[container.name]


def known_hosts(context: ServiceContext, path: str, containers: Sequence[Container], client: str) -> File:
    """Return the step for the host keys of containers. Raises HomelabError for an unknown host key."""
    lines = [f"{each.address} {host_key(context, each, client)}\n" for each in containers]
    return File(path, "".join(lines).encode())


def ssh_command(key: str, known_hosts_file: str, connect_timeout: int) -> Sequence[str]:
    """Return the words of an `ssh` that never asks, and connects to known hosts only."""
    options = (
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        f"ConnectTimeout={connect_timeout}",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        f"UserKnownHostsFile={known_hosts_file}",
    )
    return ("/usr/bin/ssh", "-i", key, *chain.from_iterable(("-o", option) for option in options))
