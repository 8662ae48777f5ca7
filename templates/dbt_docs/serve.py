"""Serve the dbt docs of the pipelines to the gateway, until a signal: `serve.py ADDRESS PORT FOLDER`."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Pages(SimpleHTTPRequestHandler):
    """The files of the folder, without a log of the requests."""

    def end_headers(self) -> None:
        """Let browsers ask for each page again, as it may have changed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    """The server, which ignores clients that leave early."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report all other errors."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


if __name__ == "__main__":
    address, port, folder = sys.argv[1:]
    Server((address, int(port)), partial(Pages, directory=folder)).serve_forever()
