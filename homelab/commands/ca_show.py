"""`homelab ca show`: the lab's CA, its validity, and the names that it is limited to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.runtime.lab_authority import existing_authority
from homelab.runtime.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAuthority:
    """The lab's CA; `hosts` and `addresses` are those for which it can issue certificates."""

    fingerprint: str
    until: str
    hosts: Sequence[str]
    addresses: Sequence[str]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"SHA-256    {self.fingerprint}",
                f"until      {self.until[:10]}",
                f"hosts      {', '.join(self.hosts)}",
                f"addresses  {', '.join(self.addresses)}",
            ]
        )


def show(session: Session) -> ShownAuthority:
    """Return the facts of the lab's CA. Raises HomelabError."""
    authority = existing_authority(session)
    names = authority.description.names
    return ShownAuthority(
        fingerprint=authority.fingerprint,
        until=authority.description.until.isoformat(),
        hosts=names.hosts,
        addresses=names.addresses,
    )
