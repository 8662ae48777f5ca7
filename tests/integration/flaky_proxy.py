"""A line to a server on loopback that can be cut, fall silent, and be mended; it counts its turns."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from types import TracebackType


class FlakyProxy:
    """Forwards a port of its own to `target`. `delay` is what one way takes, in seconds."""

    def __init__(self, target: int, delay: float = 0) -> None:
        self._target, self._delay = target, delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.turns = 0  # how often the server answered after the client had said something
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._whole = threading.Event()
        self._whole.set()

    def __enter__(self) -> FlakyProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._whole.set()

    def stop(self) -> None:
        """Cut, and take no new connection any more."""
        if self._listener.fileno() != -1:
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes accept(), and closing alone would not
            self._listener.close()
        self.cut()

    @property
    def frozen(self) -> bool:
        """Whether it is silent now."""
        return not self._whole.is_set()

    def cut(self) -> None:
        """Close what is open; new connections are taken."""
        for pair in self._pairs:
            for end in pair:
                end.close()
        self._pairs.clear()

    def freeze(self) -> None:
        """Say nothing more, in either direction, and close nothing."""
        self._whole.clear()

    def mend(self) -> None:
        """Take new connections again; the silent ones stay silent."""
        self._pairs.clear()
        self._whole.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                pair = client, socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs.append(pair)
            threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        other, asked = {client: server, server: client}, False
        with selectors.DefaultSelector() as ready:
            try:
                for end in other:
                    ready.register(end, selectors.EVENT_READ)  # one that was cut as it began is closed already
                while True:
                    for key, _ in ready.select(0.1):
                        end: socket.socket = key.fileobj  # type: ignore[assignment]
                        data = end.recv(1 << 16)
                        self._whole.wait()
                        if not data or (client, server) not in self._pairs:
                            return self._close(client, server)
                        self.turns += end is server and asked
                        asked = end is client
                        time.sleep(self._delay)
                        other[end].sendall(data)
                    if -1 in (client.fileno(), server.fileno()):
                        return None
            except (OSError, ValueError):
                return self._close(client, server)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            end.close()
