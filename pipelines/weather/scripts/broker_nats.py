"""NATS JetStream as the broker: a subject is one of its stream's, and has one durable consumer.

The message id is the hash of the line: the broker refuses a line that was published again shortly after.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b

import nats
import nats.errors
from broker_access import Access
from broker_client import STREAM, BrokerError, Delivery, Receipt, consumer_of
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import Header

_CONNECT_TIMEOUT = 5  # seconds
_PING_INTERVAL = 20  # seconds; a connection that was cut silently ends after three of them
_DEADLINE = 30.0  # seconds for the acknowledgement of a message


class NatsPublisher:
    """A connection to NATS that publishes; see Publisher."""

    def __init__(self, client: Client) -> None:
        self._client, self._stream = client, client.jetstream()

    @classmethod
    async def open(cls, access: Access) -> NatsPublisher:
        """Connect. Raises BrokerError."""
        return cls(await connect(access, reconnect=False))

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[Receipt]:
        """See Publisher."""
        with broker_errors():
            return await asyncio.gather(*(self._publish(subject, payload) for subject, payload in messages))

    async def _publish(self, subject: str, payload: bytes) -> Receipt:
        headers = {Header.MSG_ID.value: message_id(payload)}
        ack = await self._stream.publish(subject, payload, timeout=_DEADLINE, stream=STREAM, headers=headers)
        return Receipt(ack.seq, bool(ack.duplicate))

    async def stored(self, subject: str) -> int:
        """See Publisher."""
        with broker_errors():
            info = await self._stream.consumer_info(STREAM, consumer_of(subject))
        return info.ack_floor.stream_seq if info.ack_floor else 0

    async def close(self) -> None:
        """See Publisher."""
        with broker_errors():
            await self._client.close()


class NatsReader:
    """A pull subscription; see Reader."""

    def __init__(self, client: Client, subscription: JetStreamContext.PullSubscription) -> None:
        self._client, self._subscription = client, subscription

    async def read(self, count: int, seconds: float) -> Delivery:
        """See Reader."""
        messages = list[Msg]()
        with broker_errors():
            try:
                messages = await self._subscription.fetch(count, timeout=seconds)
            except TimeoutError:
                if not self._client.is_connected:
                    raise BrokerError("broker: disconnected") from None
        return Delivery([message.data for message in messages], partial(_acknowledge, messages))

    async def close(self) -> None:
        """See Reader; the end of the process closes the connection."""


async def _acknowledge(messages: Sequence[Msg]) -> None:
    with broker_errors():
        for message in messages:
            await message.ack()


async def nats_readers(access: Access, subjects: Sequence[str]) -> Sequence[NatsReader]:
    """Return a reader for each subject, all with one connection. Raises BrokerError."""
    client = await connect(access, reconnect=True)
    with broker_errors():
        bind = client.jetstream().pull_subscribe_bind
        return [NatsReader(client, await bind(consumer_of(subject), STREAM)) for subject in subjects]


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
        raise BrokerError(f"broker: {text[:500]}") from None
