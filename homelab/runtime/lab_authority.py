"""The lab's CA of a session."""

from __future__ import annotations

from homelab.certificates import Authority
from homelab.errors import InputError
from homelab.runtime.session import Session


def existing_authority(session: Session) -> Authority:
    """Return the lab's CA. Raises InputError if no deploy has made it yet, or if it is damaged."""
    if authority := session.secrets.known_authority():
        return authority
    raise InputError(
        f"Cannot find the CA of {session.inventory.lab}: it does not exist yet",
        f"{session.inventory.state_dir} has no ca.pem.",
        "The first `homelab deploy` makes it.",
    )
