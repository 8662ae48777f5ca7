"""Pass Alertmanager's webhooks on to the receivers.

POST /send/RECEIVER sends a message: 200 if the receiver took it, 502 with the reason if not, 409 in the hours without
messages. Alertmanager repeats a message that was not sent. POST /watchdog records a sign of life of Alertmanager. GET /
returns the last failure of each receiver.

Each message is sent by a process of its own: it needs its memory for seconds only, and a receiver that does not answer
delays no other one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import settings
from messages import message_of

_LARGEST = 1 << 20  # bytes of a request
_LONGEST = 60  # seconds for one message


class Bridge(ThreadingHTTPServer):
    """The server; `failures` has the last failure of each receiver, empty if its last message was sent."""

    daemon_threads = True

    def __init__(self, found: Mapping[str, Any], file: Path, state: Path) -> None:
        self.settings, self.file, self.state = found, file, state
        self.failures = dict.fromkeys(found["receivers"], "")
        super().__init__((found["address"], found["port"]), Handler)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Bridge
    timeout = 30

    def do_GET(self) -> None:
        """Return the last failures."""
        if self._is_client():
            self._answer(HTTPStatus.OK, json.dumps({"receivers": self.server.failures}))

    def do_POST(self) -> None:
        """Send a message, or record a sign of life."""
        if not self._is_client():
            return
        size = int(self.headers.get("Content-Length") or 0)
        if size > _LARGEST:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
            return
        body = self.rfile.read(size)
        name = self.path.removeprefix("/send/")
        if self.path == "/watchdog":
            (self.server.state / "watchdog").touch()
            self._answer(HTTPStatus.OK, "")
        elif name in self.server.failures and name != self.path:
            self._send(name, body)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "no such receiver")

    def _is_client(self) -> bool:
        client = self.client_address[0] in self.server.settings["clients"]
        if not client:
            self._answer(HTTPStatus.FORBIDDEN, "not a client of this bridge")
        return client

    def _send(self, name: str, body: bytes) -> None:
        try:
            payload = json.loads(body)
            message_of(payload, "")
            quiet = settings.is_quiet(self.server.settings, payload, datetime.now())
        except (ValueError, KeyError, TypeError, AttributeError):
            self._answer(HTTPStatus.BAD_REQUEST, "not a webhook of Alertmanager")
            return
        if quiet:
            self._answer(HTTPStatus.CONFLICT, "no messages at this hour")
            return
        words = [sys.executable, "-B", str(Path(__file__).with_name("send.py")), name, f"--settings={self.server.file}"]
        try:
            done = subprocess.run(words, input=body, capture_output=True, timeout=_LONGEST, check=False)
            failure = "" if done.returncode == 0 else done.stdout.decode().strip() or "internal error"
            if failure == "internal error":
                sys.stderr.write(done.stderr.decode(errors="replace"))
        except subprocess.TimeoutExpired:
            failure = f"not sent within {_LONGEST} s"
        self.server.failures[name] = failure
        if failure:
            print(f"{name}: {failure}", file=sys.stderr, flush=True)
        self._answer(HTTPStatus.BAD_GATEWAY if failure else HTTPStatus.OK, failure)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: failures are logged with their receiver."""


def main() -> None:
    """Serve until the process ends."""
    Bridge(settings.read(settings.FILE), settings.FILE, settings.STATE).serve_forever()


if __name__ == "__main__":
    main()
