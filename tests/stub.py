"""An HTTP server on loopback that answers from a script and remembers what it was asked."""

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
class Answer:
    """One answer; `drop` closes the connection instead, `delay` waits before each byte's worth of body."""

    status: int = 200
    body: bytes = b'{"dt": 1357020000, "main": {"temp": 39.02}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    delay: float = 0


@dataclass
class Stub:
    """A running stub: its base URL, and the query of each request it got."""

    url: str
    asked: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def serving(answers: Sequence[Answer]) -> Iterator[Stub]:
    """Give the answers in turn, the last one for ever."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                answer = answers[min(len(stub.asked), len(answers) - 1)]
                stub.asked.append({key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()})
            if answer.drop:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for byte in range(0, len(answer.body), 1 if answer.delay else len(answer.body)):
                    time.sleep(answer.delay)
                    self.wfile.write(answer.body[byte:] if not answer.delay else answer.body[byte : byte + 1])
            except OSError:
                return  # the client has lost its patience, as it should

        def log_message(self, *_: object) -> None:
            """Quiet."""

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
