"""The address of the broker and an identity there, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The address of the broker, and one of its identities."""

    url: str
    user: str
    password: str = field(repr=False)
    ca_file: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Access:
        """Read the environment. Raises KeyError for a missing variable."""
        return cls(
            url=environment["NATS_URL"],
            user=environment["NATS_USER"],
            password=environment["NATS_PASSWORD"],
            ca_file=environment.get("NATS_CA_FILE", ""),
        )
