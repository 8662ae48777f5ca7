"""A scripted HTTP server on loopback that records its requests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Response:
    """One response; `drop` closes the connection instead, `delay` is the seconds before each byte of the body."""

    status: int = 200
    body: bytes = b'{"dt": 1357020000, "main": {"temp": 39.02}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    delay: float = 0


@dataclass
class Stub:
    """A running server: its base URL, and the query parameters of each request."""

    url: str
    requests: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serve(responses: Sequence[Response]) -> Iterator[Stub]:
    """Serve the responses in order, and the last one for all further requests."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                response = responses[min(len(stub.requests), len(responses) - 1)]
                stub.requests.append({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})
            if response.drop:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(response.status)
            for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for byte in range(0, len(response.body), 1 if response.delay else len(response.body)):
                    time.sleep(response.delay)
                    self.wfile.write(response.body[byte:] if not response.delay else response.body[byte : byte + 1])
            except OSError:
                return  # the client closed the connection, as it should

        def log_message(self, *_: object) -> None:
            """Discard the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub = Stub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
