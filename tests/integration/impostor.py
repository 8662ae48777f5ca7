"""A server that pretends to be PostgreSQL and asks every client for its password in clear text."""

from __future__ import annotations

import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_SSL_REQUEST, _GSS_REQUEST = 80877103, 80877104
_CLEARTEXT_PASSWORD = b"R" + struct.pack("!ii", 8, 3)


@dataclass
class Impostor:
    """A running impostor; `passwords` are those that it received, `logins` the names of roles."""

    host: str
    port: int
    passwords: list[bytes] = field(default_factory=list)
    logins: list[bytes] = field(default_factory=list)
    connections: int = 0


@contextmanager
def impostor(certificate: str | None, host: str = "127.0.0.1") -> Iterator[Impostor]:
    """Serve on a free port; `certificate` is a file's text with a key and a certificate, None answers "no TLS"."""
    listener = socket.create_server((host, 0))
    context = _context(certificate) if certificate else None
    running = Impostor(host, listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            running.connections += 1
            connection.settimeout(10)
            with suppress(OSError, struct.error), connection:
                _answer(connection, context, running)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield running
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _context(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.pem")
        path.write_text(certificate)
        context.load_cert_chain(path)
    return context


def _answer(connection: socket.socket, context: ssl.SSLContext | None, running: Impostor) -> None:
    while True:
        size, code = struct.unpack("!ii", _read(connection, 8))
        if code == _SSL_REQUEST and context:
            connection.sendall(b"S")
            connection = context.wrap_socket(connection, server_side=True)
        elif code in (_SSL_REQUEST, _GSS_REQUEST):
            connection.sendall(b"N")
        else:
            break
    fields = _read(connection, size - 8).split(b"\0")
    running.logins.append(fields[fields.index(b"user") + 1])
    connection.sendall(_CLEARTEXT_PASSWORD)
    kind, size = struct.unpack("!ci", _read(connection, 5))
    if kind == b"p":
        running.passwords.append(_read(connection, size - 4).rstrip(b"\0"))


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        if not (part := connection.recv(size - len(found))):
            raise ConnectionResetError
        found += part
    return found
