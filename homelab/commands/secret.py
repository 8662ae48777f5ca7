"""`homelab secret`: show, list and set the lab's secrets."""

from __future__ import annotations

from homelab.errors import InputError
from homelab.model import Secret
from homelab.runtime.session import Session


def show(session: Session, name: str) -> Secret:
    """Return a secret. Raises InputError if there is none of that name."""
    names = session.secrets.names()
    if name not in names:
        raise InputError(
            f"Cannot show secret {name}: it does not exist",
            f"There are: {', '.join(names) or 'none yet'}.",
            "The first `homelab deploy` makes the passwords; `homelab secret set NAME` adds a secret of your own.",
        )
    return session.secrets.secret(name)


def set_(session: Session, name: str, value: str) -> None:
    """Store a secret, replacing one of the same name. Raises InputError for an empty value."""
    value = value.strip()
    if not value:
        raise InputError(f"Cannot set secret {name}: the value is empty", "", "Type the value, or pipe it in.")
    session.secrets.set(name, value)
