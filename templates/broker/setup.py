"""Create the stream and its consumers, or change their limits: standard input has the settings and the password.

The stream is a queue: a message stays until its consumer has acknowledged it, and has no age limit, which would remove
waiting messages. A full stream refuses further messages.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Mapping
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

_DUPLICATES = 600  # seconds in which the broker recognises a message that is published again
_ACK_WAIT = 15  # seconds after which a message is delivered again
_PENDING = 1000  # messages of a consumer that are not acknowledged: two of its batches


async def _stream(stream: JetStreamContext, settings: Mapping[str, Any]) -> None:
    config = StreamConfig(
        name=settings["stream"],
        subjects=list(settings["consumers"].values()),
        retention=RetentionPolicy.WORK_QUEUE,
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        max_bytes=settings["disk"],
        max_age=0,
        duplicate_window=_DUPLICATES,
        num_replicas=1,
    )
    try:
        await stream.stream_info(settings["stream"])
    except NotFoundError:
        await stream.add_stream(config)
    else:
        await stream.update_stream(config)


async def main(settings: Mapping[str, Any]) -> None:
    """Connect, and create or update the stream and its consumers."""
    trusted = ssl.create_default_context(cafile=settings["ca_file"]) if settings["ca_file"] else None
    client = await nats.connect(
        settings["url"],
        user=settings["user"],
        password=settings["password"],
        tls=trusted,
        inbox_prefix=f"_INBOX_{settings['user']}".encode(),
        connect_timeout=5,
        allow_reconnect=False,
    )
    try:
        stream = client.jetstream()
        await _stream(stream, settings)
        for name, subject in settings["consumers"].items():
            config = ConsumerConfig(
                durable_name=name,
                filter_subject=subject,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_WAIT,
                max_ack_pending=_PENDING,
                max_deliver=-1,
            )
            await stream.add_consumer(settings["stream"], config)
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(json.load(sys.stdin)))
