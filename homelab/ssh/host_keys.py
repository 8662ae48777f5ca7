"""SSH host keys of a machine, read before a login. Sends no credentials."""

from __future__ import annotations

import socket
import sys

# paramiko uses `invoke` only for `Match exec` in ssh_config, which homelab does not read. Its import takes as long as
# that of all of paramiko.
if "invoke" not in sys.modules:
    sys.modules["invoke"] = None  # type: ignore[assignment]

import paramiko

from homelab.errors import HomelabError
from homelab.known_hosts import Pin

_CONNECT_TIMEOUT = 5.0  # seconds for one attempt; a container that boots refuses or drops packets


class HostKeyMismatch(HomelabError):
    """The machine that answers shows another host key than the pinned one."""


def changed_key(name: str, address: str, shown: str, pin: Pin) -> HostKeyMismatch:
    """Return the error for a machine with the key fingerprint `shown` (`SHA256:…`) instead of the pinned one."""
    return HostKeyMismatch(
        f"Cannot connect to {name}: its SSH host key has changed",
        f"{address} shows {shown}, pinned is {pin.fingerprint}: another machine may be answering.",
        f"If you created the container again yourself, run `homelab trust host {name}`.",
    )


def shown_key(address: str, port: int = 22) -> str | None:
    """Return the line of a machine's ed25519 host key, or None without an answer. Sends no credentials."""
    try:
        transport = verified_transport(address, port)
    except (OSError, EOFError, paramiko.SSHException):
        return None
    try:
        return key_line(transport)
    finally:
        transport.close()


def verified_transport(address: str, port: int) -> paramiko.Transport:
    """Return a connection on which the machine has proved that it owns its host key; there is no login yet."""
    connection = socket.create_connection((address, port), timeout=_CONNECT_TIMEOUT)
    # A command is several small packets; without this, each waits 40 ms for the previous acknowledgement.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(connection)
    try:
        # The pinned key is the ed25519 key.
        transport.get_security_options().key_types = ["ssh-ed25519"]
        transport.start_client(timeout=_CONNECT_TIMEOUT * 3)
    except BaseException:
        transport.close()
        raise
    return transport


def key_line(transport: paramiko.Transport) -> str:
    """Return the line of the machine's host key: its type and the key in base64."""
    key = transport.get_remote_server_key()
    return f"{key.get_name()} {key.get_base64()}"
