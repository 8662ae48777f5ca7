"""A Host over SSH: the only importer of paramiko. Host keys are pinned; there is no auto-add."""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

# paramiko asks for it only in ssh_config's `Match exec`, which nobody reads here, and it takes as long to import as all
# the rest of paramiko, which does without.
if "invoke" not in sys.modules:
    sys.modules["invoke"] = None  # type: ignore[assignment]

import paramiko

from homelab.errors import HomelabError
from homelab.host import ConnectionLost, Result, batch_script
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.model import Secret

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it has to say comes as exceptions, too
_CONNECT_TIMEOUT = 5.0  # seconds for one attempt; a container that boots refuses or drops packets
_RETRY_PAUSE = 0.2
_SOONEST, _LATEST = 0.003, 0.05  # seconds between two looks for a command's end
_LATE = 0.02  # by how much of what a command took it may be seen late
_OPEN = 60.0  # seconds that sshd has to open a session
_NO_STATUS = -1  # paramiko's sign that no exit status has come


class HostKeyMismatch(HomelabError):
    """The machine that answers is not the one whose key we pinned."""


class Ssh:
    """Runs commands as root in one container over one SSH connection, which lives until `close()`.

    Every `beat` seconds sshd is asked for a sign of life; without one for `patience` seconds the connection is lost.
    """

    def __init__(
        self,
        name: str,
        address: str,
        private_key: Secret,
        known_hosts: KnownHosts,
        port: int = 22,
        user: str = "root",
        beat: float = 10,
        patience: float = 20,
    ) -> None:
        self.name = name
        self._address = address
        self._port = port
        self._user = user
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private_key.reveal()))
        self._known_hosts = known_hosts
        self._beat, self._patience = beat, patience
        self._transport: paramiko.Transport | None = None
        self._hung_up = threading.Event()

    def __enter__(self) -> Ssh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._hung_up.set()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connect(self, deadline: float = 10) -> None:
        """Connect, trying again while the machine boots, for `deadline` seconds in all.

        Raises HostKeyMismatch at once, HomelabError when nobody answered or the login was refused.
        """
        until = time.monotonic() + deadline
        while True:
            try:
                return self._connect_once()
            except (OSError, EOFError, paramiko.SSHException) as error:
                if isinstance(error, paramiko.AuthenticationException) or time.monotonic() > until:
                    raise self._unreachable(error) from error
                time.sleep(_RETRY_PAUSE)

    def _connect_once(self) -> None:
        transport = _introduced(self._address, self._port)
        try:
            self._verify(_line(transport))
            transport.auth_publickey(self._user, self._key)
        except BaseException as error:
            # A machine that goes down in the middle of it refuses nobody; paramiko says the same of both.
            gone = isinstance(error, paramiko.AuthenticationException) and not transport.is_active()
            transport.close()
            if gone:
                raise EOFError("it hung up during the login") from error
            raise
        self._transport, self._hung_up = transport, threading.Event()
        threading.Thread(target=self._keep_alive, args=(transport, self._hung_up), daemon=True).start()

    def _keep_alive(self, transport: paramiko.Transport, hung_up: threading.Event) -> None:
        """Hang up when the other side gives no sign of life: whoever waits for it is told so."""
        while not hung_up.wait(self._beat) and transport.is_active():
            giving_up = threading.Timer(self._patience, transport.close)
            giving_up.daemon = True
            giving_up.start()
            with suppress(OSError, EOFError, paramiko.SSHException):  # which whoever waits for a command is told, too
                transport.global_request("keepalive@openssh.com")  # ends with the answer, or with the transport
            giving_up.cancel()

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        self.close()
        self.connect(deadline)

    def _verify(self, line: str) -> None:
        shown = fingerprint(line)
        pin = self._known_hosts.pins().get(self.name)
        if pin is None:
            raise HostKeyMismatch(
                f"{self.name}: its SSH host key is not known",
                f"{self._address} shows {shown}, and no pin says whether that is right.",
                "Run `homelab up`: it reads the key's fingerprint from Proxmox.",
            )
        if pin.fingerprint != shown:
            raise changed(self.name, self._address, shown, pin)
        if pin.key is None:
            self._known_hosts.pin(self.name, Pin(shown, line))

    def _unreachable(self, error: Exception) -> HomelabError:
        if isinstance(error, paramiko.AuthenticationException):
            return HomelabError(
                f"{self.name}: SSH login as {self._user} was refused",
                f"{self._address} does not accept this inventory's key.",
                "Was the container made with other keys? Put the public one of .homelab/<lab>/operator_ed25519 "
                "(`ssh-keygen -yf` prints it) into its /root/.ssh/authorized_keys.",
            )
        return HomelabError(
            f"{self.name}: no answer over SSH",
            f"{self._address} port {self._port}: {error or type(error).__name__}.",
            "Is the container running? `homelab status` shows it, `homelab up` starts it.",
        )

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        try:
            channel = self._channel()
            try:
                return self._run(channel, command, stdin, timeout)
            finally:
                channel.close()
        except (OSError, EOFError, paramiko.SSHException) as error:
            if isinstance(error, TimeoutError) and self._transport is not None and self._transport.is_active():
                raise HomelabError(
                    f"{self.name}: a command does not end",
                    f"`{_short(command)}`: no end after {timeout:.0f} s.",
                    f"See what it waits for: `homelab ssh {self.name} -- ps axf`.",
                ) from error
            self.close()
            raise ConnectionLost(
                f"{self.name}: the connection was lost",
                f"It ended during `{_short(command)}`: {error or type(error).__name__}.",
                "Run the same command again: it goes on where it stopped.",
            ) from error

    def _run(self, channel: paramiko.Channel, command: str, stdin: bytes, timeout: float) -> Result:
        channel.settimeout(timeout)
        channel.exec_command(command)
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()
        return self._collect(channel, command, timeout)

    def _collect(self, channel: paramiko.Channel, command: str, timeout: float) -> Result:
        began = time.monotonic()
        out, err = bytearray(), bytearray()
        while True:
            # Asked before the last read, so that nothing which came before the end is left behind.
            closed = channel.closed
            whole = channel.exit_status != _NO_STATUS and channel.eof_received
            # Both streams share one window: reading one alone could wait for ever.
            while channel.recv_ready():
                out += channel.recv(1 << 16)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(1 << 16)
            # What came before the line broke need not be all, even where the status is among it.
            if closed and not whole and not channel.get_transport().is_active():
                raise EOFError("the remote side is gone")
            if closed or whole:
                # Without a status on a live connection, the remote shell itself was killed by a signal.
                return Result(command, channel.exit_status, bytes(out), bytes(err))
            if (taken := time.monotonic() - began) > timeout:
                raise TimeoutError(f"no end after {timeout:.0f} s")
            time.sleep(min(max(_SOONEST, taken * _LATE), _LATEST))

    def _channel(self) -> paramiko.Channel:
        if self._transport is None or not self._transport.is_active():
            self.connect()
        if (transport := self._transport) is None:
            raise EOFError("it was hung up meanwhile")
        return transport.open_session(timeout=_OPEN)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch: one shell script goes over, one answer comes back."""
        script, parse = batch_script(commands)
        return parse(self.run("sh -s", stdin=script.encode()))


def changed(name: str, address: str, shown: str, pin: Pin) -> HostKeyMismatch:
    """What is to be said where a machine shows another key, of fingerprint `SHA256:…`, than the pinned one."""
    return HostKeyMismatch(
        f"{name}: its SSH host key has changed",
        f"{address} shows {shown}, pinned is {pin.fingerprint}: another machine may be answering.",
        f"If you made the container anew yourself, run `homelab trust {name}`.",
    )


def shown_key(address: str, port: int = 22) -> str | None:
    """The line of the ed25519 host key that a machine shows, or None if none does. Nothing is sent to it."""
    try:
        transport = _introduced(address, port)
    except (OSError, EOFError, paramiko.SSHException):
        return None
    try:
        return _line(transport)
    finally:
        transport.close()


def _introduced(address: str, port: int) -> paramiko.Transport:
    """A connection on which the other side has proved that it has its host key, and nothing else was said."""
    connection = socket.create_connection((address, port), timeout=_CONNECT_TIMEOUT)
    # A command is several small packets, and each would wait 40 ms for the acknowledgement of the one before.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = paramiko.Transport(connection)
    try:
        # The pin is for the ed25519 key, so that is the one we ask for.
        transport.get_security_options().key_types = ["ssh-ed25519"]
        transport.start_client(timeout=_CONNECT_TIMEOUT * 3)
    except BaseException:
        transport.close()
        raise
    return transport


def _line(transport: paramiko.Transport) -> str:
    key = transport.get_remote_server_key()
    return f"{key.get_name()} {key.get_base64()}"


def _short(command: str) -> str:
    first = command.splitlines()[0].removeprefix("# ")
    return first if len(first) <= 120 else first[:119] + "…"
