"""Servers of the tests of alerts on loopback: receivers, and the bridge itself."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from homelab.paths import bundled_path

SCRIPTS = bundled_path("templates/alert_bridge/scripts")
sys.path.append(str(SCRIPTS))
import bridge  # noqa: E402 - a program of the container, next to its modules


class Sink(BaseHTTPRequestHandler):
    """A receiver of webhooks that takes JSON; its paths have the answers of Slack."""

    got: list[Any]

    def do_POST(self) -> None:
        """Record the body."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refuses = self.path == "/services/T0000/B0000/wrongtoken"
        if not refuses:
            self.got.append(body)  # before the answer, after which the test reads it
        self.send_response(404 if refuses else 200)
        self.end_headers()
        self.wfile.write(b"no_service" if refuses else b"ok")

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class Mailbox(socketserver.StreamRequestHandler):
    """A mail server without TLS that takes every mail."""

    got: list[str]

    def handle(self) -> None:
        """Answer the commands of one connection."""
        self._reply("220 mail")
        while line := self.rfile.readline().decode().strip():
            if line.upper() == "DATA":
                self._reply("354 go")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                self.got.append("\n".join(lines))
            self._reply("221 bye" if line.upper() == "QUIT" else "550 unknown" if "nobody@" in line else "250 ok")

    def _reply(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve in a thread and yield the port."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]  # type: ignore[misc]
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def bridged(folder: Path, clients: tuple[str, ...] = ("127.0.0.1",), **changes: Any) -> Iterator[dict[str, Any]]:
    """Run a bridge on loopback and yield its settings."""
    found = {"lab": "home", "container": "box", "address": "127.0.0.1", "port": 0, "clients": list(clients)}
    found |= {"quiet": None, "receivers": {}, "pipelines": {}, "watchdog": 0, **changes}
    file = folder / "alerts.json"
    file.write_text(json.dumps(found))
    with serving(bridge.Bridge(found, file, folder)) as port:
        yield {**found, "port": port}


def slack(url: str, token: str) -> dict[str, Any]:
    return {"kind": "slack", "url": f"{url}/services/T0000/B0000/{token}"}


def mail(port: int, **more: Any) -> dict[str, Any]:
    receiver = {"kind": "email", "host": "127.0.0.1", "port": port, "from": "homelab@home.arpa", "to": ["me@home.arpa"]}
    return {**receiver, "user": None, "password": None, **more}
