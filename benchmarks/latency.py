"""A deploy over a slow line: `python -m benchmarks.latency <seconds one way> <inventory> [overlay …]`.

Each container is reached through a relay on loopback that delays data in both directions, and counts turns: the number
of times that the container answers. So the kernel needs no netem. TCP's handshake is not delayed. Prints one line of
JSON: for each container, seconds and turns of the connection, and of all that follows.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from homelab.commands.deploy import deploy
from homelab.inventory import load
from homelab.known_hosts import KnownHosts
from homelab.model import Container, Secret
from homelab.progress import SilentProgress
from homelab.runtime.session import Session
from homelab.ssh import Ssh

_CONNECT_TIMEOUT = 60.0  # seconds


@dataclass
class Seen:
    """The seconds and turns of one container: of its connection, and of all that follows."""

    connecting: float = 0.0
    handshake: int = 0
    work: float = 0.0
    turns: int = 0


class Relay:
    """A port on loopback that forwards to another machine's port with a delay."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, port: int, delay: float) -> None:
        """`delay`: seconds of one way."""
        self.turns = 0
        self._loop, self._target, self._delay = loop, (address, port), delay
        self._last_was_request = False
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), loop).result()
        self.port: int = server.sockets[0].getsockname()[1]

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._forward(near, forth, True), self._forward(far, back, False))

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_request: bool) -> None:
        while data := await _read(source):
            self.turns += self._last_was_request and not is_request
            self._last_was_request = is_request
            self._loop.call_later(self._delay, sink.write, data)
        self._loop.call_later(self._delay, sink.close)


async def _read(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.read(1 << 16)
    except ConnectionError:
        return b""


class Relays:
    """The relays to all containers; `connect` is the connector of a session."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.seen: dict[str, Seen] = {}
        self.relays: dict[str, Relay] = {}

    def connect(self, container: Container, key: Secret, known_hosts: KnownHosts, deadline: float) -> Ssh:
        """Connect to a container through a relay."""
        relay = self.relays[container.name] = Relay(self._loop, str(container.address), 22, self._delay)
        started = time.perf_counter()
        host = Ssh(container.name, "127.0.0.1", key, known_hosts, relay.port)
        host.connect(_CONNECT_TIMEOUT)
        self.seen[container.name] = Seen(time.perf_counter() - started, relay.turns)
        return host


def main() -> None:
    """Deploy; the exit code is 1 if that made changes."""
    delay, *files = sys.argv[1:]
    relays = Relays(float(delay))
    session = Session.open(load([Path(file) for file in files]), SilentProgress())
    reports = deploy(replace(session, connector=relays.connect))
    for report in reports:
        if report.failure:
            raise report.failure
        seen = relays.seen[report.container]
        seen.work, seen.turns = report.seconds, relays.relays[report.container].turns - seen.handshake
    print(json.dumps({name: asdict(seen) for name, seen in relays.seen.items()}))
    sys.exit(any(report.changes for report in reports))


if __name__ == "__main__":
    main()
