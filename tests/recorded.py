"""Answers that a real Proxmox VE 9.2 gave, and a server that gives them again, over TLS."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parent / "data" / "proxmox" / "recorded.json"
RECORDED: dict[str, dict[str, Any]] = json.loads(_FILE.read_text())


def data(name: str) -> Any:
    """What stands under `data` in a recorded answer."""
    return RECORDED[name]["body"]["data"]


@contextmanager
def replaying(
    names: Sequence[str], certificate: tuple[str, str], host: str = "127.0.0.1"
) -> Iterator[tuple[int, list[str]]]:
    """Give these answers in turn, whatever is asked; yields the port, and the Authorization headers that came."""
    answers, seen = iter(names), []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            seen.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            recorded = RECORDED[next(answers)]
            body = recorded["body"]
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(recorded["status"], recorded["reason"])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some tests are about."""

    server = Server((host, 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
