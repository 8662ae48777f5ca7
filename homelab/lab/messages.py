"""The receiver of the lab's messages about incidents: it appends each message to a file, and forwards none."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

_LARGEST = 10 << 20  # bytes of the file; after them, the next message replaces its content


def receive(file: Path) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler that appends the JSON of a request to the file, as one line."""

    async def handle(request: web.Request) -> web.Response:
        try:
            line = json.dumps(await request.json())
        except ValueError:
            return web.Response(status=400, text="not JSON\n")
        full = file.exists() and file.stat().st_size > _LARGEST
        with file.open("w" if full else "a") as lines:
            lines.write(f"{line}\n")
        return web.Response(text="stored\n")

    return handle
