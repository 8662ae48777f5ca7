"""`homelab secret`: show, list and set the lab's secrets."""

from __future__ import annotations

import re

from homelab.errors import InputError
from homelab.model import Secret
from homelab.model.options import SecretName
from homelab.model.secret_store import is_reserved
from homelab.runtime.session import Session

# Also surrogates, which stand for bytes that are not UTF-8. A private key has line feeds.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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


def check_name(name: str) -> None:
    """Raise InputError for a name that `{secret: NAME}` cannot have. It is not quoted: it may be the value."""
    if not re.fullmatch(SecretName.PATTERN, name):
        raise InputError(
            "Cannot set a secret: this name cannot be used",
            "A name has lower-case letters, digits and `._-`, and begins with a letter or a digit.",
            "Choose a name such as smtp: `homelab secret set smtp`.",
        )


def set_(session: Session, name: str, value: str) -> None:
    """Store a secret, replacing one of the same name. Raises InputError for a name or a value that cannot be used."""
    check_name(name)
    value = value.strip()
    if not value:
        raise InputError(f"Cannot set secret {name}: the value is empty", "", "Type the value, or pipe it in.")
    if _CONTROL.search(value):
        raise InputError(
            f"Cannot set secret {name}: the value has a control character, or is not UTF-8 text",
            "It has printable characters, tabs and line feeds.",
            "For other content, set its Base64.",
        )
    if is_reserved(name) and "\n" in value:
        raise InputError(
            f"Cannot set secret {name}: the value has several lines",
            "A password of homelab's services is one line.",
            "Type the value, or pipe it in.",
        )
    session.secrets.set(name, value)
