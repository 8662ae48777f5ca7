"""A Host over SSH: the only importer of paramiko. Host keys are pinned and never added automatically."""

from __future__ import annotations

import io
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import TracebackType

import paramiko

from homelab.errors import HomelabError
from homelab.host import ConnectionLost, LoginRefused, Result, batch_script
from homelab.known_hosts import KnownHosts, Pin, fingerprint
from homelab.model import Secret
from homelab.ssh.host_keys import HostKeyMismatch, changed_key, key_line, shown_key, verified_transport

__all__ = ["HostKeyMismatch", "Keepalive", "Ssh", "changed_key", "shown_key"]

logging.getLogger("paramiko").addHandler(logging.NullHandler())  # its messages also come as exceptions
_RETRY_PAUSE = 0.2
_POLL_MIN, _POLL_MAX = 0.003, 0.05  # seconds between two checks for the end of a command
_POLL_SHARE = 0.02  # of the duration of the command: the interval in between
_SESSION_TIMEOUT = 60.0  # seconds in which sshd has to open a session
_USER = "root"
_NO_STATUS = -1  # paramiko's value for a missing exit status


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The seconds between two keepalive requests to sshd, and the seconds in which it has to answer."""

    interval: float = 10.0
    timeout: float = 20.0


_OUTPUT_MAX = 256 << 20  # bytes of a command's output: more would exhaust this machine's memory
_KEEPALIVE = Keepalive()


class Ssh:
    """A container over one SSH connection as root, which stays open until `close()`.

    The connection is lost if sshd does not answer a keepalive request in time.
    """

    def __init__(
        self,
        name: str,
        address: str,
        private_key: Secret,
        known_hosts: KnownHosts,
        port: int = 22,
        keepalive: Keepalive = _KEEPALIVE,
    ) -> None:
        self.name = name
        self._address = address
        self._port = port
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private_key.reveal()))
        self._known_hosts = known_hosts
        self._keepalive = keepalive
        self._transport: paramiko.Transport | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Ssh:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._closed.set()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connect(self, deadline: float = 10) -> None:
        """Connect; retry for `deadline` seconds, as the machine may be booting.

        Raises HostKeyMismatch without a retry, HomelabError when nothing answered or the login was refused.
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
        transport = verified_transport(self._address, self._port)
        try:
            self._verify(key_line(transport))
            transport.auth_publickey(_USER, self._key)
        except BaseException as error:
            # paramiko raises the same exception for a refused login and for a machine that shuts down during it.
            lost = isinstance(error, paramiko.AuthenticationException) and not transport.is_active()
            transport.close()
            if lost:
                raise EOFError("the connection was closed during the login") from error
            raise
        self._transport, self._closed = transport, threading.Event()
        threading.Thread(target=self._keep_alive, args=(transport, self._closed), daemon=True).start()

    def _keep_alive(self, transport: paramiko.Transport, closed: threading.Event) -> None:
        """Close the connection when sshd does not answer in time; a waiting command then gets an error."""
        while not closed.wait(self._keepalive.interval) and transport.is_active():
            timer = threading.Timer(self._keepalive.timeout, transport.close)
            timer.daemon = True
            timer.start()
            with suppress(OSError, EOFError, paramiko.SSHException):  # a waiting command gets the error, too
                transport.global_request("keepalive@openssh.com")  # returns with the answer, or when closed
            timer.cancel()

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        self.close()
        self.connect(deadline)

    def _verify(self, line: str) -> None:
        shown = fingerprint(line)
        pin = self._known_hosts.pins().get(self.name)
        if pin is None:
            raise HostKeyMismatch(
                f"Cannot connect to {self.name}: its SSH host key is not known yet",
                f"{self._address} shows {shown}, and no key is pinned for it.",
                "Run `homelab up`: it reads the fingerprint of the key from Proxmox.",
            )
        if pin.fingerprint != shown:
            raise changed_key(self.name, self._address, shown, pin)
        if pin.key is None:
            self._known_hosts.pin(self.name, Pin(shown, line))

    def _unreachable(self, error: Exception) -> HomelabError:
        if isinstance(error, paramiko.AuthenticationException):
            return LoginRefused(
                f"Cannot connect to {self.name}: the SSH login as {_USER} was refused",
                f"{self._address} does not accept the key.",
            )
        return HomelabError(
            f"Cannot connect to {self.name}: no answer over SSH",
            f"{self._address} port {self._port}: {error or type(error).__name__}.",
            "Check that the container is running: `homelab status` shows it, `homelab up` starts it.",
        )

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """See Host.run."""
        with self._opened_channel(command, timeout) as channel:
            return self._run(channel, command, stdin, timeout)

    def download(self, command: str, write: Callable[[bytes], object], *, timeout: float) -> Result:
        """See Connection.download."""
        mark, head, reached = secrets.token_hex(16).encode(), bytearray(), False
        with self._opened_channel(command, timeout) as channel:
            channel.exec_command(f"echo {mark.decode()}\n{command}")
            channel.shutdown_write()
            while (block := channel.recv(1 << 18)) and len(head) <= _OUTPUT_MAX:
                if not reached:
                    head += block
                    _, found, block = bytes(head).partition(mark + b"\n")
                    reached = bool(found)
                if block:
                    write(block)
            error = bytearray()
            while len(error) <= _OUTPUT_MAX and (block := channel.recv_stderr(1 << 16)):
                error += block
            if not channel.status_event.wait(timeout):
                raise TimeoutError(f"no exit status within {timeout:.0f} s")
            return Result(command, channel.recv_exit_status(), b"", bytes(error))

    @contextmanager
    def _opened_channel(self, command: str, timeout: float) -> Iterator[paramiko.Channel]:
        """Open a channel for one command. Raises ConnectionLost, and HomelabError when the command does not end."""
        try:
            channel = self._channel()
            channel.settimeout(timeout)
            try:
                yield channel
            finally:
                channel.close()
        except (OSError, EOFError, paramiko.SSHException) as error:
            if isinstance(error, TimeoutError) and self._transport is not None and self._transport.is_active():
                raise HomelabError(
                    f"Cannot finish a command on {self.name}: it did not end within {timeout:.0f} s",
                    f"`{_short(command)}`",
                    f"Find out what it waits for with `homelab ssh {self.name} -- ps axf`.",
                ) from error
            self.close()
            raise ConnectionLost(
                f"Cannot finish a command on {self.name}: the connection was lost",
                f"It was lost during `{_short(command)}`: {error or type(error).__name__}.",
                "Run the same command again: it continues where it stopped.",
            ) from error

    def _run(self, channel: paramiko.Channel, command: str, stdin: bytes, timeout: float) -> Result:
        # The output before a random mark is that of the login shell's start files.
        mark = secrets.token_hex(16)
        channel.exec_command(f"echo {mark}; echo {mark} >&2\n{command}")
        if stdin:
            channel.sendall(stdin)
        channel.shutdown_write()
        return self._after_mark(mark.encode(), self._collect(channel, command, timeout))

    def _after_mark(self, mark: bytes, result: Result) -> Result:
        """Return a result without the output before the mark. Raises HomelabError if the command was not reached."""
        out, err = (stream.partition(mark + b"\n") for stream in (result.stdout, result.stderr))
        if not out[1]:
            raise HomelabError(
                f"Cannot run a command on {self.name}: the shell of {_USER} ended before it",
                (result.stdout + result.stderr).decode(errors="replace").strip()[-500:]
                or f"It ended with status {result.status}.",
                "A start file such as /root/.bashrc ends it. Correct the file: `pct enter` on the node opens a shell.",
            )
        return replace(result, stdout=out[2], stderr=err[2] if err[1] else result.stderr)

    def _collect(self, channel: paramiko.Channel, command: str, timeout: float) -> Result:
        started = time.monotonic()
        out, err = bytearray(), bytearray()
        while True:
            # Read before the output, so that no output that came before the end is missed.
            closed = channel.closed
            complete = channel.exit_status != _NO_STATUS and channel.eof_received
            # Both streams share one window: reading only one of them could block for ever.
            while channel.recv_ready() and len(out) <= _OUTPUT_MAX:
                out += channel.recv(1 << 16)
            while channel.recv_stderr_ready() and len(err) <= _OUTPUT_MAX:
                err += channel.recv_stderr(1 << 16)
            if len(out) + len(err) > _OUTPUT_MAX:
                raise HomelabError(
                    f"Cannot finish a command on {self.name}: its output is larger than {_OUTPUT_MAX >> 20} MiB",
                    f"`{_short(command)}`",
                    "For a query, aggregate or limit the rows. Otherwise the container may have been tampered with.",
                )
            # After a lost connection the output may be incomplete, even if the status has come.
            if closed and not complete and not channel.get_transport().is_active():
                raise EOFError("the machine closed the connection")
            if closed or complete:
                # Without a status on a live connection, the remote shell itself was killed by a signal.
                return Result(command, channel.exit_status, bytes(out), bytes(err))
            if (elapsed := time.monotonic() - started) > timeout:
                raise TimeoutError(f"no end after {timeout:.0f} s")
            time.sleep(min(max(_POLL_MIN, elapsed * _POLL_SHARE), _POLL_MAX))

    def _channel(self) -> paramiko.Channel:
        if self._transport is None or not self._transport.is_active():
            self.connect()
        if (transport := self._transport) is None:
            raise EOFError("the connection was closed meanwhile")
        return transport.open_session(timeout=_SESSION_TIMEOUT)

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """See Host.batch: one shell script is sent, one output is returned."""
        script, parse = batch_script(commands)
        return parse(self.run("sh -s", stdin=script.encode()))


def _short(command: str) -> str:
    first = command.splitlines()[0].removeprefix("# ")
    return first if len(first) <= 120 else first[:119] + "…"
