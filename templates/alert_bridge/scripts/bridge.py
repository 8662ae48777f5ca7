"""Pass Alertmanager's webhooks on to the receivers.

POST /send/RECEIVER sends a message: 200 if the receiver took it, for some recipients at least; 502 with the reason if
not; 409 in the hours without messages. Alertmanager repeats a message that was not sent. POST /watchdog records a sign
of life of Alertmanager. GET / returns the last failure of each receiver.

Each message is sent by a process of its own, one at a time for each receiver: many incidents at the same time need no
more memory, and a receiver that does not answer delays no other one.
"""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import subprocess
import sys
import threading
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
    """The server; `failures` has the last failure of each receiver, empty if all its recipients took the last message.

    `unconfirmed` has the digests of sent messages whose client left before the answer, and will repeat them.
    """

    daemon_threads = True

    def __init__(self, found: Mapping[str, Any], file: Path, state: Path) -> None:
        self.settings, self.file, self.state = found, file, state
        self.failures = dict.fromkeys(found["receivers"], "")
        self.turns = {name: threading.Lock() for name in found["receivers"]}
        self.unconfirmed: set[tuple[str, bytes]] = set()
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
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,18}", length):
            self._answer(HTTPStatus.LENGTH_REQUIRED, "no valid Content-Length")
            return
        if int(length) > _LARGEST:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large")
            return
        body = self.rfile.read(int(length))
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
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self._answer(HTTPStatus.BAD_REQUEST, "not a webhook of Alertmanager")
            return
        if quiet:
            self._answer(HTTPStatus.CONFLICT, "no messages at this hour")
            return
        sent = name, hashlib.sha256(body).digest()
        with self.server.turns[name]:
            if self._has_left():
                return  # it repeats the message
            if sent in self.server.unconfirmed:
                was_sent, failure = True, ""
            else:
                was_sent, failure = self._result(name, body)
                self.server.failures[name] = failure
            self.server.unconfirmed.discard(sent)
            if was_sent and self._has_left():
                self.server.unconfirmed.add(sent)
        if failure:
            print(f"{name}: {failure}", file=sys.stderr, flush=True)
        self._answer(HTTPStatus.OK if was_sent else HTTPStatus.BAD_GATEWAY, failure)

    def _result(self, name: str, body: bytes) -> tuple[bool, str]:
        """Send a message in another process; return True if it was sent, and the reason of a refusal."""
        words = [sys.executable, "-B", str(Path(__file__).with_name("send.py")), name, f"--settings={self.server.file}"]
        try:
            done = subprocess.run(words, input=body, capture_output=True, timeout=_LONGEST, check=False)
        except subprocess.TimeoutExpired:
            return False, f"not sent within {_LONGEST} s"
        reason = done.stdout.decode(errors="replace").strip()
        if done.returncode == 0 or reason:
            return done.returncode == 0, reason
        sys.stderr.write(done.stderr.decode(errors="replace"))
        return False, "internal error"

    def _has_left(self) -> bool:
        """Return True if the client has closed the connection."""
        try:
            ready, _, _ = select.select([self.connection], [], [], 0)
            return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

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
