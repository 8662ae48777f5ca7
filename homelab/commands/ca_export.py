"""`homelab ca export`: the certificate of the lab's CA, for clients outside the lab."""

from __future__ import annotations

from homelab.runtime.lab_authority import existing_authority
from homelab.runtime.session import Session


def export(session: Session) -> str:
    """Return the CA's certificate (PEM), without its private key. Raises HomelabError."""
    return existing_authority(session).certificate
