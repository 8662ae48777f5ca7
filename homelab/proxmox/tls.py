"""Whom we talk to: the certificate is checked on the very connection that carries the token, before it does."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter

from homelab.errors import HomelabError
from homelab.model import Endpoint

_TIMEOUT = 10.0


class TrustAdapter(HTTPAdapter):
    """Verifies by the endpoint's pinned fingerprint, by its CA file, or by the system's CAs; there is no fourth way."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._trust = _trust(endpoint)
        super().__init__()  # repeats nothing: what may be repeated is the client's to know

    def build_connection_pool_key_attributes(self, request: PreparedRequest, verify: Any, cert: Any = None) -> Any:
        """What a connection is made with: our trust, whatever the session or the environment says."""
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, dict(self._trust)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: requests would set its own CAs here, over ours."""


def _trust(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.fingerprint:
        # The pin is the verification, and urllib3 checks it right after the handshake: no CA has to agree. With a
        # context of ours it does not read all of the system's CAs for each connection either (60 ms).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {
            "cert_reqs": "CERT_NONE",
            "ssl_context": context,
            "assert_fingerprint": endpoint.fingerprint.replace(":", ""),
        }
    try:
        context = ssl.create_default_context(cafile=str(endpoint.ca_file) if endpoint.ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise HomelabError(
            f"The CA file {endpoint.ca_file} cannot be used",
            f"{error}.",
            "Copy /etc/pve/pve-root-ca.pem from the node to it, or pin `fingerprint`.",
        ) from error
    # Proxmox's own CA lacks extensions that newer Pythons insist on.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return {"cert_reqs": "CERT_REQUIRED", "ssl_context": context}


def fetch_fingerprint(host: str, port: int) -> str:
    """The SHA-256 fingerprint of the certificate that answers there, `AA:BB:…`; sends nothing. Raises HomelabError."""
    try:
        pem = ssl.get_server_certificate((host, port), timeout=_TIMEOUT)
    except OSError as error:
        raise HomelabError(
            f"No TLS answer from {host}:{port}",
            f"{error}.",
            "Is the address right, and is Proxmox VE's web interface up there?",
        ) from error
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()
