"""Start prometheus-pve-exporter for one Proxmox VE API; verify its certificate before sending the token.

The exporter alone verifies a certificate only by a CA and the name in it, and sends the token to each host that a
request names as `target`.
"""

import os
import ssl
from typing import Any

from proxmoxer import ProxmoxAPI
from pve_exporter import cli, collector
from requests import PreparedRequest
from requests.adapters import HTTPAdapter

HOST, _, PORT = os.environ["HOMELAB_PROXMOX"].rpartition(":")
FINGERPRINT = os.environ.get("HOMELAB_PROXMOX_FINGERPRINT", "")


def _trust() -> dict[str, Any]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if FINGERPRINT:
        # urllib3 compares the pin right after the handshake.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return {"cert_reqs": "CERT_NONE", "ssl_context": context, "assert_fingerprint": FINGERPRINT.replace(":", "")}
    context.load_verify_locations(cafile=os.environ["HOMELAB_PROXMOX_CA"])
    # Proxmox's own CA lacks extensions that newer Python versions require.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return {"cert_reqs": "CERT_REQUIRED", "ssl_context": context}


class Trust(HTTPAdapter):
    """An HTTP adapter that verifies the pinned fingerprint, or else the CA and the name."""

    trust = _trust()

    def build_connection_pool_key_attributes(self, request: PreparedRequest, verify: Any, cert: Any = None) -> Any:
        """Use our trust settings for each connection."""
        host, _ = super().build_connection_pool_key_attributes(request, True, None)
        return host, dict(self.trust)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Do nothing: requests would override our CA with its own here."""


class OnlyApi(ProxmoxAPI):
    """The API of the inventory, for each target of a request."""

    def __init__(self, target: str, **options: Any) -> None:
        super().__init__(HOST, port=int(PORT), timeout=8, **options)
        session = self._store["session"]
        session.trust_env = False
        session.max_redirects = 0
        session.mount("https://", Trust())


if __name__ == "__main__":
    collector.ProxmoxAPI = OnlyApi
    cli.main()
