"""Stamps of passwords in containers, by which a deploy notices another password."""

from __future__ import annotations

import hmac

from homelab.model import ServiceContext


def password_stamp(context: ServiceContext, name: str) -> bytes:
    """Return the stamp of a secret: 32 bytes, the same at each deploy.

    No container has its key: a plain hash would let the container's users guess a short password.
    """
    store = context.secret_store
    return hmac.digest(store.secret("stamps").reveal().encode(), store.secret(name).reveal().encode(), "sha256")
