"""SCRAM-SHA-256 verifiers, as PostgreSQL stores them instead of passwords."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

from homelab.model import Secret

_ITERATIONS = 4096  # PostgreSQL's default


def scram_verifier(password: Secret, salt: bytes | None = None, iterations: int = _ITERATIONS) -> str:
    """Return the verifier of a password (RFC 5803), so that the password itself is never sent to the server."""
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.reveal().encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored, server, salt64 = (
        base64.b64encode(part).decode() for part in (hashlib.sha256(client_key).digest(), server_key, salt)
    )
    return f"SCRAM-SHA-256${iterations}:{salt64}${stored}:{server}"


def verifies(verifier: str, password: Secret) -> bool:
    """Return True if a stored verifier belongs to this password."""
    try:
        scheme, parameters, _ = verifier.split("$")
        iterations, salt = parameters.split(":")
    except ValueError:
        return False
    return scheme == "SCRAM-SHA-256" and hmac.compare_digest(
        verifier, scram_verifier(password, base64.b64decode(salt), int(iterations))
    )
