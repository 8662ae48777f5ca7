"""The broker's stream of responses: its subjects and messages, and connections to it.

A message is one line of the spool's format. Its subject is one of several parts by its city: one consumer at a time
reads a part, so the responses of a city are stored in the order in which they were published. The message id is the
hash of the line: the broker refuses a line that was published again shortly after, and PostgreSQL the others.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import nats
import nats.errors
from broker_access import Access
from nats.aio.client import Client

_CONTRACT = json.loads(Path(__file__).with_name("broker_contract.json").read_text())  # homelab reads it, too
STREAM: str = _CONTRACT["stream"]
PARTS: int = _CONTRACT["parts"]  # the number of consumers that can share the work; a change needs an empty stream
RUNS: str = _CONTRACT["runs"]  # the starts and ends of runs
_CONNECT_TIMEOUT = 5  # seconds
_PING_INTERVAL = 20  # seconds; a connection that was cut silently ends after three of them


class BrokerError(Exception):
    """The broker cannot be reached, or refuses a request."""


def part_of(line: bytes) -> int:
    """Return the part of the stream for a line: always the same for a city."""
    return crc32(line.split(b"\t", 2)[1]) % PARTS


def subject_of(line: bytes) -> str:
    """Return the subject of a line."""
    return f"{_CONTRACT['observations']}.{part_of(line)}"


def consumer_of(subject: str) -> str:
    """Return the name of the durable consumer of a subject."""
    return f"{_CONTRACT['consumer']}-{subject.rpartition('.')[2]}"


def subjects() -> list[str]:
    """Return all subjects of the stream."""
    return [*(f"{_CONTRACT['observations']}.{part}" for part in range(PARTS)), RUNS]


def message_id(payload: bytes) -> str:
    """Return the id by which the broker recognises a message that is published again."""
    return blake2b(payload, digest_size=16).hexdigest()


async def connect(access: Access, *, reconnect: bool) -> Client:
    """Connect; with `reconnect`, the client connects again after an interruption. Raises BrokerError."""
    errors = deque[Exception](maxlen=1)

    async def note(error: Exception) -> None:
        """Keep the last error, which the client replaces with a general one."""
        errors.append(error)

    with broker_errors():
        attempt = nats.connect(
            access.url,
            user=access.user,
            password=access.password,
            tls=ssl.create_default_context(cafile=access.ca_file) if access.ca_file else None,
            # Replies are sent there: no identity can read those of another one.
            inbox_prefix=f"_INBOX_{access.user}".encode(),
            connect_timeout=_CONNECT_TIMEOUT,
            allow_reconnect=reconnect,
            max_reconnect_attempts=-1 if reconnect else 1,  # 0 would mean without an end
            reconnect_time_wait=1 if reconnect else 0.2,
            ping_interval=_PING_INTERVAL,
            error_cb=note,
        )
        try:
            return await asyncio.wait_for(attempt, 2 * _CONNECT_TIMEOUT)
        except (nats.errors.NoServersError, TimeoutError) as error:
            raise errors[-1] if errors else error from None


@contextmanager
def broker_errors() -> Iterator[None]:
    """Raise the client's errors as BrokerError."""
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError, ssl.SSLError) as error:
        text = " ".join(str(error).split()).removeprefix("nats: ") or type(error).__name__
        raise BrokerError(f"broker: {text}") from None
