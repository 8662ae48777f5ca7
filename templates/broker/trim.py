"""Delete the messages of topics that their group has stored, and serve the state of the topics as JSON on loopback.

Usage: trim.py --port PORT --limit BYTES --folder FOLDER --group GROUP TOPIC…; the variables are KAFKA_URL,
KAFKA_USER, KAFKA_PASSWORD and KAFKA_CA_FILE. Kafka itself keeps stored messages until a limit of age or size, which
would remove waiting ones, too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import ssl
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

_INTERVAL = 2.0  # seconds between two looks
_DEADLINE = 10  # seconds for one look
_IDLE = 60.0  # seconds after which a group that stores nothing does not read
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the errors that it logs are raised, too


class Topics:
    """The topics, each with one partition, and when the group has stored last."""

    def __init__(self, options: argparse.Namespace, settings: Mapping[str, Any]) -> None:
        self._options, self._partitions = options, [TopicPartition(name, 0) for name in options.topics]
        self._offsets = AIOKafkaConsumer(**settings, group_id=options.group, enable_auto_commit=False)
        self._admin = AIOKafkaAdminClient(**settings)
        self._moved: dict[TopicPartition, tuple[int, float]] = {}

    async def connect(self) -> None:
        """Connect both clients."""
        await self._offsets.start()
        await self._admin.start()

    async def close(self) -> None:
        """Close both clients."""
        await self._offsets.stop()
        await self._admin.close()

    async def look(self) -> Mapping[str, Any]:
        """Delete the stored messages, and return the state."""
        present = await self._offsets.topics()
        partitions = [each for each in self._partitions if each.topic in present]
        firsts, ends = await self._offsets.beginning_offsets(partitions), await self._offsets.end_offsets(partitions)
        stored = {each: max(firsts[each], await self._offsets.committed(each) or 0) for each in partitions}
        waiting = {each: max(0, ends[each] - stored[each]) for each in partitions}
        for each, offset in stored.items():
            if self._moved.get(each, (-1, 0))[0] != offset:
                self._moved[each] = (offset, time.monotonic())
        read = [each for each in partitions if not waiting[each] or self._moved[each][1] > time.monotonic() - _IDLE]
        problem = await self._delete({each: offset for each, offset in stored.items() if offset > firsts[each]})
        return {
            "messages": sum(waiting.values()),
            "bytes": used(Path(self._options.folder), self._options.topics),
            "limit_bytes": self._options.limit,
            "pending": sum(waiting.values()),
            "unacknowledged": 0,
            "redelivered": 0,
            "consumers": len(partitions),
            "read": len(read),
            "problem": problem,
            "at": time.time(),
        }

    async def _delete(self, offsets: Mapping[TopicPartition, int]) -> str:
        """Delete the messages before these offsets; return the problem."""
        try:
            if offsets:
                await self._admin.delete_records({each: RecordsToDelete(offset) for each, offset in offsets.items()})
        except KafkaError as error:
            return f"cannot delete stored messages: {type(error).__name__}"
        return ""


def used(folder: Path, topics: Sequence[str]) -> int:
    """Return the bytes of the topics on the disk; files that are removed meanwhile count as 0."""
    total = 0
    for topic in topics:
        for path in (folder / topic).rglob("*"):
            try:
                total += path.stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


class Server(ThreadingHTTPServer):
    """The last state, on loopback."""

    daemon_threads = True
    state: Mapping[str, Any]

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.state = {"at": 0.0, "problem": "it has not answered yet"}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        """Answer with the state."""
        text = json.dumps(self.server.state).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


async def watch(options: argparse.Namespace, settings: Mapping[str, Any], server: Server) -> None:
    """Look again and again, with a new connection after each error."""
    while True:
        topics = Topics(options, settings)
        try:
            await asyncio.wait_for(topics.connect(), _DEADLINE)
            while True:
                server.state = await asyncio.wait_for(topics.look(), _DEADLINE)
                await asyncio.sleep(_INTERVAL)
        except (KafkaError, OSError, TimeoutError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            print(f"error: {problem}", file=sys.stderr, flush=True)
            server.state = {**server.state, "problem": problem}
        with suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(topics.close(), _DEADLINE)
        await asyncio.sleep(_INTERVAL)


def client_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a client: TLS with a CA, SASL with a user."""
    user, ca_file = environment.get("KAFKA_USER", ""), environment.get("KAFKA_CA_FILE", "")
    layer = "SSL" if ca_file else "PLAINTEXT"
    found = {
        "bootstrap_servers": environment["KAFKA_URL"].partition("://")[2],
        "request_timeout_ms": _DEADLINE * 1000,
        "security_protocol": f"SASL_{layer}" if user else layer,
        "ssl_context": ssl.create_default_context(cafile=ca_file) if ca_file else None,
    }
    if user:
        found["sasl_mechanism"] = "SCRAM-SHA-256"
        found["sasl_plain_username"], found["sasl_plain_password"] = user, environment["KAFKA_PASSWORD"]
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the options."""
    found = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    found.add_argument("--port", type=int, required=True)
    found.add_argument("--limit", type=int, required=True)
    found.add_argument("--folder", required=True)
    found.add_argument("--group", required=True)
    found.add_argument("topics", nargs="+", metavar="TOPIC")
    return found


def main() -> None:
    """Parse the options and run; see the module's docstring."""
    options = parser().parse_args()
    asyncio.run(watch(options, client_settings(os.environ), Server(options.port)))


if __name__ == "__main__":
    main()
