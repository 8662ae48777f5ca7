"""A deploy over a line that takes its time: `python -m benchmarks.latency <seconds one way> <inventory> [overlay …]`.

Each container is reached through a relay on loopback that hands on what comes as much later as the line is long, in
both directions, and counts its turns: how often the container spoke after it had been spoken to. So a kernel without
netem will do. TCP's own handshake is not delayed. Prints one line of JSON: for each container, seconds and turns, those
of connecting apart.
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

_PATIENCE = 60.0  # seconds to connect


@dataclass
class Seen:
    """Of one container: seconds and turns of connecting, and of all that came after it."""

    connecting: float = 0.0
    handshake: int = 0
    work: float = 0.0
    turns: int = 0


class Relay:
    """A port on loopback, behind which another machine's port seems to be far away."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: str, port: int, delay: float) -> None:
        """`delay`: seconds that one way takes."""
        self.turns = 0
        self._loop, self._target, self._delay = loop, (address, port), delay
        self._asked = False
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), loop).result()
        self.port: int = server.sockets[0].getsockname()[1]

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, forth = await asyncio.open_connection(*self._target)
        await asyncio.gather(self._hand_on(near, forth, True), self._hand_on(far, back, False))

    async def _hand_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, asking: bool) -> None:
        while data := await _read(source):
            self.turns += self._asked and not asking
            self._asked = asking
            self._loop.call_later(self._delay, sink.write, data)
        self._loop.call_later(self._delay, sink.close)


async def _read(source: asyncio.StreamReader) -> bytes:
    try:
        return await source.read(1 << 16)
    except ConnectionError:
        return b""


class Line:
    """How a deploy reaches the containers, as its `reach`."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.seen: dict[str, Seen] = {}
        self.relays: dict[str, Relay] = {}

    def connect(self, container: Container, key: Secret, known_hosts: KnownHosts, _: float) -> Ssh:
        """A live connection through a relay."""
        relay = self.relays[container.name] = Relay(self._loop, str(container.address), 22, self._delay)
        started = time.perf_counter()
        host = Ssh(container.name, "127.0.0.1", key, known_hosts, relay.port)
        host.connect(_PATIENCE)
        self.seen[container.name] = Seen(time.perf_counter() - started, relay.turns)
        return host


def main() -> None:
    """Deploy; the exit code is 1 if that was no no-op."""
    delay, *files = sys.argv[1:]
    inventory, line = load([Path(file) for file in files]), Line(float(delay))
    reports = deploy(replace(Session.open(inventory, SilentProgress()), connector=line.connect))
    for report in reports:
        if report.failure:
            raise report.failure
        seen = line.seen[report.container]
        seen.work, seen.turns = report.seconds, line.relays[report.container].turns - seen.handshake
    print(json.dumps({name: asdict(seen) for name, seen in line.seen.items()}))
    sys.exit(any(report.changes for report in reports))


if __name__ == "__main__":
    main()
