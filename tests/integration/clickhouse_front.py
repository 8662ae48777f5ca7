"""A small HTTP front of chdb, ClickHouse's engine as a Python package: a stand-in for clickhouse-server.

Run as `PYTHON clickhouse_front.py PORT FOLDER` with the interpreter of .venv-chdb. It answers /ping and queries over
HTTPS, checks the password, and runs one query at a time. A server's users, grants, quotas, and native protocol are
missing. FOLDER has server.pem, the file `password`, and the tables.
"""

from __future__ import annotations

import re
import ssl
import sys
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from chdb.session import Session  # type: ignore[import-not-found]

_INSERT = re.compile(r"\s*(insert\s+into\s+.*?)\s+format\s+(?!values\b)(\w+)\s*(.*)\Z", re.I | re.S)
_FORMAT = re.compile(r"\sformat\s+(\w+)\s*;?\s*\Z", re.I)
# Parameters of the interface; all others are settings.
_OWN = re.compile(
    r"param_.*|session_(id|timeout|check)|query(_id)?|database|default_format|(de)?compress|.*http.*|wait_.*"
)
_OWN_TOO = {"client_protocol_version", "user", "password"}


class Front(BaseHTTPRequestHandler):
    """A request of a client."""

    protocol_version = "HTTP/1.1"
    session: ClassVar[Session]
    folder: ClassVar[Path]
    running = threading.Lock()

    def do_GET(self) -> None:
        """Answer /ping, or a query in the address."""
        if urlsplit(self.path).path == "/ping":
            self._answer(200, b"Ok.\n")
        else:
            self._query(b"")

    def do_POST(self) -> None:
        """Answer a query in the address or the body; with both, the body has the rows to insert."""
        self._query(self._body())

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _query(self, body: bytes) -> None:
        if (self.folder / "password").read_text() not in self._passwords():
            self._answer(403, b"Code: 516. DB::Exception: Authentication failed. (AUTHENTICATION_FAILED)\n", 516)
            return
        options = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        sql, rows = (options["query"], body) if options.get("query") else (body.decode(), b"")
        with self.running:
            try:
                for name, value in options.items():
                    if name not in _OWN_TOO and not _OWN.fullmatch(name):
                        self.session.query(f"set {name} = '{value}'")
                if options.get("database"):
                    self.session.query(f"use `{options['database']}`")
                result, kind = self._run(sql, rows, options.get("default_format", "TabSeparated"))
            except RuntimeError as error:
                code = re.search(r"Code: (\d+)", str(error))
                self._answer(500, str(error).encode(), int(code[1]) if code else 1002)
                return
        self._answer(200, result, kind=kind)

    def _run(self, sql: str, rows: bytes, kind: str) -> tuple[bytes, str]:
        """Return the answer of the engine, and its format."""
        if insert := _INSERT.match(sql):
            with NamedTemporaryFile(dir=self.folder) as file:
                file.write(insert[3].encode() + rows)
                file.flush()
                self.session.query(f"{insert[1]} select * from file('{file.name}', '{insert[2]}')")  # noqa: S608
            return b"", kind
        if found := _FORMAT.search(sql):
            kind, sql = found[1], sql[: found.start()]
        answer = self.session.query(sql + rows.decode(), kind)
        return bytes(answer.bytes()), kind

    def _passwords(self) -> set[str]:
        basic = self.headers.get("Authorization", "").removeprefix("Basic ")
        return {self.headers.get("X-ClickHouse-Key", ""), b64decode(basic).decode().partition(":")[2]}

    def _answer(self, status: int, content: bytes, code: int = 0, kind: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("X-ClickHouse-Summary", "{}")
        self.send_header("X-ClickHouse-Format", kind)
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def main() -> None:
    """Serve until the process is ended."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    Front.folder, Front.session = folder, Session(str(folder / "tables"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = ThreadingHTTPServer(("127.0.0.1", port), Front)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
