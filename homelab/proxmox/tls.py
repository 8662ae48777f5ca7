"""TLS verification: the certificate is checked on the connection that carries the token, before the token is sent."""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from homelab.errors import HomelabError
from homelab.model import ProxmoxApi

# The entry of `pvenode cert info` to compare; it lists the CA first.
CERTIFICATE_FILE = "the entry pveproxy-ssl.pem, or pve-ssl.pem without one; not pve-root-ca.pem"
_TIMEOUT = 10.0


class TrustAdapter(HTTPAdapter):
    """An HTTP adapter that verifies the pinned fingerprint, or else the CA file, or else the system's CAs."""

    def __init__(self, endpoint: ProxmoxApi) -> None:
        self._trust = _trust(endpoint)
        super().__init__()  # without retries: only the client knows which calls may be repeated

    def build_connection_pool_key_attributes(self, request: PreparedRequest, verify: Any, cert: Any = None) -> Any:
        """Use our trust settings for each connection, regardless of the session and the environment."""
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, dict(self._trust)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: requests would override our CAs with its own here."""


def _trust(endpoint: ProxmoxApi) -> dict[str, Any]:
    if endpoint.fingerprint:
        # urllib3 checks the pin right after the handshake, so CAs are not needed. With our own context it also does
        # not load the system's CAs for each connection (60 ms).
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {
            "cert_reqs": "CERT_NONE",
            "ssl_context": context,
            "assert_fingerprint": endpoint.fingerprint.replace(":", ""),
        }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if endpoint.ca_file:
            context.load_verify_locations(cafile=str(endpoint.ca_file))
        else:
            context.load_verify_locations(**_authorities())
    except (OSError, ssl.SSLError) as error:
        raise HomelabError(
            f"Cannot use the CA file {endpoint.ca_file}: it is unreadable or invalid",
            f"{error}.",
            "Copy /etc/pve/pve-root-ca.pem from the node to it, or pin `fingerprint`.",
        ) from error
    # Proxmox's own CA lacks extensions that newer Python versions require.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return {"cert_reqs": "CERT_REQUIRED", "ssl_context": context}


def _authorities() -> dict[str, str]:
    """Return this machine's CAs, or those of requests if there are none.

    The default context of Python would read $SSL_CERT_FILE and $SSL_CERT_DIR: the environment could redirect the token.
    """
    paths = ssl.get_default_verify_paths()
    found = {"cafile": paths.openssl_cafile, "capath": paths.openssl_capath}
    return {name: path for name, path in found.items() if os.path.exists(path)} or {"cafile": DEFAULT_CA_BUNDLE_PATH}


def fetch_fingerprint(host: str, port: int) -> str:
    """Return the SHA-256 fingerprint of a server's certificate, `AA:BB:…`, without a request. Raises HomelabError."""
    try:
        pem = ssl.get_server_certificate((host, port), timeout=_TIMEOUT)
    except OSError as error:
        raise HomelabError(
            f"Cannot read the certificate of {host}:{port}: no TLS answer",
            f"{error}.",
            "Check the address, and that Proxmox VE's web interface is up there.",
        ) from error
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()
