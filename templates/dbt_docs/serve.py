"""Serve the dbt docs of the pipelines to the gateway, until a signal: `serve.py ADDRESS PORT FOLDER`."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Pages(SimpleHTTPRequestHandler):
    """The files of the folder, without a log of the requests."""

    def end_headers(self) -> None:
        """Let browsers ask for each page again, as it may have changed."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


if __name__ == "__main__":
    address, port, folder = sys.argv[1:]
    ThreadingHTTPServer((address, int(port)), partial(Pages, directory=folder)).serve_forever()
