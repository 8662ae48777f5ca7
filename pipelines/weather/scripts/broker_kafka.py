"""A broker with Kafka's protocol: a subject is a topic with one partition, whose waiting messages follow an offset.

Kafka keeps the messages that are stored, too: their consumer moves the offset of the group after the COMMIT, and a
program next to the broker deletes the messages before it. Kafka refuses no message: the publisher does, before the
waiting ones fill the disk. Both use no feature that only some brokers with this protocol have.

The client sends one request after another to a broker, and repeats one that failed before the next: so the order is
kept. A request of which only the answer was lost publishes its messages twice, and PostgreSQL refuses the second ones.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from broker_access import Access
from broker_client import GROUP, RUNS, BrokerError, Delivery, Receipt, subjects

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the errors that it logs are raised, too
_DEADLINE = 10  # seconds for a connection, and for a request with its repetitions
_LARGEST = 4 << 20  # bytes: a response has at most 1 MiB, and every character of it may be escaped
_BATCH = 1 << 20  # bytes of one request for a partition


class KafkaPublisher:
    """A connection that publishes, and one that looks at the consumers' offsets; see Publisher."""

    def __init__(self, producer: AIOKafkaProducer, offsets: AIOKafkaConsumer, limit: int) -> None:
        self._producer, self._offsets, self._limit = producer, offsets, limit
        self._mean = 1000.0  # bytes of an observation, until the first ones are published

    @classmethod
    async def open(cls, access: Access) -> KafkaPublisher:
        """Connect. Raises BrokerError."""
        async with kafka_errors():
            settings = client_settings(access)
        producer = AIOKafkaProducer(**settings, acks="all", max_request_size=_LARGEST, max_batch_size=_BATCH)
        opened = cls(producer, AIOKafkaConsumer(**settings, group_id=GROUP, enable_auto_commit=False), access.limit)
        try:
            async with kafka_errors():
                await producer.start()
                await opened._offsets.start()
        except BrokerError:
            await opened.close()
            raise
        return opened

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[Receipt]:
        """See Publisher. A duplicate is not recognised."""
        if self._limit:
            await self._require_room(messages)
        async with kafka_errors(3 * _DEADLINE):
            # One after another, as the order of concurrent calls is not that of their messages.
            sent = [await self._producer.send(subject, payload, partition=0) for subject, payload in messages]
            found = await asyncio.gather(*sent, return_exceptions=True)
            if errors := [each for each in found if isinstance(each, BaseException)]:
                raise errors[0]
        return [Receipt(each.offset, False) for each in found if not isinstance(each, BaseException)]

    async def _require_room(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Raise BrokerError if the waiting messages, each with the mean size of observations, reach the limit."""
        waiting, new = await self._count_waiting(), sum(len(payload) for _, payload in messages)
        if messages and messages[0][0] != RUNS:  # a record of a run can be much larger
            self._mean = new / len(messages)
        estimate = waiting * self._mean + new
        if estimate > self._limit:
            text = f"about {estimate / 1e6:.0f} of {self._limit / 1e6:.0f} MB with the new ones"
            raise BrokerError(f"broker: full: {waiting} messages wait, {text}")

    async def _count_waiting(self) -> int:
        async with kafka_errors():
            ends = await self._offsets.end_offsets([TopicPartition(subject, 0) for subject in subjects()])
            return sum([end - (await self._offsets.committed(part) or 0) for part, end in ends.items()])

    async def stored(self, subject: str) -> int:
        """See Publisher."""
        async with kafka_errors():
            return (await self._offsets.committed(TopicPartition(subject, 0)) or 0) - 1

    async def close(self) -> None:
        """See Publisher."""
        await _closed(self._producer.stop())
        await _closed(self._offsets.stop())


class KafkaReader:
    """A consumer of one topic, the only one: its group does not divide the topics; see Reader."""

    def __init__(self, consumer: AIOKafkaConsumer, subject: str) -> None:
        self._consumer, self._partition = consumer, TopicPartition(subject, 0)
        self._uncommitted: int | None = None
        consumer.assign([self._partition])

    async def read(self, count: int, seconds: float) -> Delivery:
        """See Reader."""
        if self._uncommitted is not None:
            await self._commit(self._uncommitted)
        async with kafka_errors(seconds + _DEADLINE):
            partition, milliseconds = self._partition, int(seconds * 1000)
            found = await self._consumer.getmany(partition, timeout_ms=milliseconds, max_records=count)
            records = found.get(partition, [])
            if not records:
                await self._consumer.end_offsets([partition])  # raises if the broker is away
                return Delivery([], _nothing)
        return Delivery([each.value or b"" for each in records], partial(self._commit, records[-1].offset + 1))

    async def close(self) -> None:
        """See Reader."""
        await _closed(self._consumer.stop())

    async def _commit(self, offset: int) -> None:
        self._uncommitted = offset  # the broker does not deliver its messages again to this consumer
        async with kafka_errors():
            await self._consumer.commit({self._partition: offset})
        self._uncommitted = None


async def kafka_readers(access: Access, subjects: Sequence[str]) -> Sequence[KafkaReader]:
    """Return a reader for each subject. Raises BrokerError."""
    opened = list[AIOKafkaConsumer]()
    try:
        async with kafka_errors():
            settings = client_settings(access)
            for _ in subjects:
                consumer = AIOKafkaConsumer(
                    **settings, group_id=GROUP, enable_auto_commit=False, auto_offset_reset="earliest"
                )
                opened.append(consumer)
                await consumer.start()
    except BrokerError:
        for each in opened:
            await _closed(each.stop())
        raise
    return [KafkaReader(consumer, subject) for consumer, subject in zip(opened, subjects, strict=True)]


def client_settings(access: Access) -> dict[str, Any]:
    """Return the arguments of a client: TLS with a CA, SASL with a user."""
    trusted = ssl.create_default_context(cafile=access.ca_file) if access.ca_file else None
    layer = "SSL" if trusted else "PLAINTEXT"
    login = {
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": access.user,
        "sasl_plain_password": access.password,
    }
    return {
        "bootstrap_servers": access.address,
        "security_protocol": f"SASL_{layer}" if access.user else layer,
        "ssl_context": trusted,
        "request_timeout_ms": _DEADLINE * 1000,
        **(login if access.user else {}),
    }


@asynccontextmanager
async def kafka_errors(seconds: float = _DEADLINE) -> AsyncIterator[None]:
    """Raise the client's errors as BrokerError; some of its requests would be repeated for ever without a deadline."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (KafkaError, OSError, TimeoutError, ssl.SSLError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise BrokerError(f"broker: {text[:500]}") from None


async def _nothing() -> None:
    """Acknowledge no message."""


async def _closed(closing: Awaitable[None]) -> None:
    """Wait for the end of a client, which may wait for the broker."""
    with suppress(BrokerError):
        async with kafka_errors(2):
            await closing
