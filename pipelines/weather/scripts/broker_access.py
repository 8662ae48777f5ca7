"""The address of the broker and an identity there, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_KAFKA = "kafka://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The address of the broker, and one of its identities.

    `limit` is the number of bytes that may wait in a broker with Kafka's protocol, which refuses none itself; 0: any.
    """

    url: str
    user: str
    password: str = field(repr=False)
    ca_file: str = ""
    limit: int = 0

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Access:
        """Read the environment: KAFKA_URL, …, or else NATS_URL, …. Raises KeyError for a missing variable."""
        if "KAFKA_URL" in environment:
            return cls(
                url=environment["KAFKA_URL"],
                user=environment["KAFKA_USER"],
                password=environment["KAFKA_PASSWORD"],
                ca_file=environment.get("KAFKA_CA_FILE", ""),
                limit=int(environment.get("KAFKA_LIMIT", "0")),
            )
        return cls(
            url=environment["NATS_URL"],
            user=environment["NATS_USER"],
            password=environment["NATS_PASSWORD"],
            ca_file=environment.get("NATS_CA_FILE", ""),
        )

    @property
    def kafka(self) -> bool:
        """True if the broker has Kafka's protocol, False if it is NATS."""
        return self.url.startswith(_KAFKA)

    @property
    def address(self) -> str:
        """Its host and port."""
        return self.url.partition("://")[2]
