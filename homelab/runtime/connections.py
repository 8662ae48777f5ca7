"""SSH connections to containers, their host keys checked against the pins."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from homelab.host import Host, Result
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Secret

BOOT_DEADLINE = 120.0  # seconds that a container has to boot and answer


class Connection(Host, Protocol):
    """A host that is disconnected at the end."""

    def download(self, command: str, write: Callable[[bytes], object], *, timeout: float) -> Result:
        """Run shell text and pass its standard output on, block by block; the result has none.

        `timeout` is the longest pause between two blocks, in seconds. Raises ConnectionLost, and the errors of `write`.
        """

    def close(self) -> None:
        """Disconnect."""

    def __enter__(self) -> Connection: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


# Connects to a container within a deadline in seconds. Raises HostKeyMismatch or HomelabError.
Connector = Callable[[Container, Secret, KnownHosts, float], Connection]


def connect_ssh(container: Container, key: Secret, known_hosts: KnownHosts, deadline: float) -> Connection:
    """Connect over SSH and check the host key; retry for `deadline` seconds. Raises HomelabError."""
    from homelab.ssh import Ssh  # paramiko takes a fifth of a second to import

    host = Ssh(container.name, str(container.address), key, known_hosts)
    host.connect(deadline)
    return host
