"""The broker's stream of responses: its subjects and messages, and the interface of NATS and Kafka to it.

A message is one line of the spool's format. Its subject is one of several parts by its city: one consumer at a time
reads a part, so the responses of a city are stored in the order in which they were published. A line that was published
twice is stored once: PostgreSQL refuses the second one.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from zlib import crc32

from broker_access import Access

_CONTRACT = json.loads(Path(__file__).with_name("broker_contract.json").read_text())  # homelab reads it, too
STREAM: str = _CONTRACT["stream"]
GROUP: str = _CONTRACT["consumer"]  # the name of Kafka's group, and the first part of the names of NATS' consumers
PARTS: int = _CONTRACT["parts"]  # the number of consumers that can share the work; a change needs an empty stream
RUNS: str = _CONTRACT["runs"]  # the starts and ends of runs


class BrokerError(Exception):
    """The broker cannot be reached, or refuses a request."""


class Receipt(NamedTuple):
    """The position of a message in its subject, and True if the broker recognised it as published before."""

    position: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages of a subject; `acknowledge` removes them from the waiting ones, and raises BrokerError."""

    payloads: Sequence[bytes]
    acknowledge: Callable[[], Awaitable[None]]


class Publisher(Protocol):
    """A connection that publishes. Its methods raise BrokerError."""

    async def publish(self, messages: Sequence[tuple[str, bytes]]) -> Sequence[Receipt]:
        """Publish messages with their subjects, in this order, and wait until all are on the broker's disk."""
        ...

    async def stored(self, subject: str) -> int:
        """Return the position up to which the consumer has stored the messages of a subject; before the first: -1."""
        ...

    async def close(self) -> None:
        """Close the connection."""
        ...


class Reader(Protocol):
    """A connection that reads one subject, and connects again after an interruption."""

    async def read(self, count: int, seconds: float) -> Delivery:
        """Return up to `count` messages, none after `seconds` without one. Raises BrokerError."""
        ...

    async def close(self) -> None:
        """Release the connection at the end of the process."""
        ...


async def open_publisher(access: Access) -> Publisher:
    """Connect, with the protocol of the address. Raises BrokerError."""
    # Only the client of the configured broker is imported, and installed.
    if access.kafka:
        from broker_kafka import KafkaPublisher

        return await KafkaPublisher.open(access)
    from broker_nats import NatsPublisher

    return await NatsPublisher.open(access)


async def open_readers(access: Access, subjects: Sequence[str]) -> Sequence[Reader]:
    """Connect, and return a reader for each subject. Raises BrokerError."""
    if access.kafka:
        from broker_kafka import kafka_readers

        return await kafka_readers(access, subjects)
    from broker_nats import nats_readers

    return await nats_readers(access, subjects)


def part_of(line: bytes) -> int:
    """Return the part of the stream for a line: always the same for a city."""
    return crc32(line.split(b"\t", 2)[1]) % PARTS


def subject_of(line: bytes) -> str:
    """Return the subject of a line."""
    return f"{_CONTRACT['observations']}.{part_of(line)}"


def consumer_of(subject: str) -> str:
    """Return the name of NATS' durable consumer of a subject."""
    return f"{GROUP}-{subject.rpartition('.')[2]}"


def subjects() -> list[str]:
    """Return all subjects of the stream."""
    return [*(f"{_CONTRACT['observations']}.{part}" for part in range(PARTS)), RUNS]
