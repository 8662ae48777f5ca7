"""The Proxmox API: token login over verified TLS, and errors in words. The package's only use of proxmoxer."""

from __future__ import annotations

import os
import threading
from typing import Any

import requests
from proxmoxer.backends.https import Backend
from proxmoxer.core import ProxmoxResource, ResourceException

from homelab.errors import HomelabError
from homelab.model import Endpoint, Secret
from homelab.proxmox import errors
from homelab.proxmox.tls import TrustAdapter

TOKEN_VARIABLE = "HOMELAB_PROXMOX_TOKEN"  # noqa: S105 - the variable's name
# Seconds to connect, and to wait for an answer: a change waits up to 10 s for the container's lock.
_TIMEOUT = (5, 40)


class Client:
    """Calls the API. May be used from several threads: each has a connection of its own, kept alive."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._token = read_token(endpoint)
        self._local = threading.local()

    def get(self, path: str, **params: Any) -> Any:
        """Read. Raises ProxmoxError for what Proxmox refuses, HomelabError where it cannot be reached."""
        return self._call("get", path, params)

    def post(self, path: str, **params: Any) -> Any:
        """Make or do. Raises like `get`."""
        return self._call("post", path, params)

    def put(self, path: str, **params: Any) -> Any:
        """Change. Raises like `get`."""
        return self._call("put", path, params)

    def delete(self, path: str, **params: Any) -> Any:
        """Remove. Raises like `get`."""
        return self._call("delete", path, params)

    def _call(self, method: str, path: str, params: dict[str, Any]) -> Any:
        call = f"{method.upper()} /{path}"
        # Proxmox takes 0 and 1 in forms, not True.
        plain = {name: int(value) if isinstance(value, bool) else value for name, value in params.items()}
        try:
            answer = getattr(self._resource()(path), method)(**plain)
        except ResourceException as error:
            raise errors.answered(error, self.endpoint, call) from error
        except requests.RequestException as error:
            raise errors.unreachable(error, self.endpoint, call) from error
        if isinstance(answer, dict) and isinstance(answer.get("errors"), bytes):
            raise HomelabError(f"{self.endpoint.host}:{self.endpoint.port} does not answer like Proxmox VE",
                               f"`{call}` gave something that is not JSON.",
                               "Is `proxmox.host` in the inventory the node itself, and not a proxy?")
        return answer

    def _resource(self) -> ProxmoxResource:
        if not hasattr(self._local, "resource"):
            self._local.resource = self._connect()
        return self._local.resource

    def _connect(self) -> ProxmoxResource:
        user, _, name = self.endpoint.token_id.partition("!")
        backend = Backend(self.endpoint.host, port=self.endpoint.port, user=user, token_name=name,
                          token_value=self._token.reveal(), verify_ssl=True, timeout=_TIMEOUT)
        session = backend.get_session()
        # Neither a proxy nor CAs nor a .netrc out of the environment: the inventory says whom we talk to.
        session.trust_env = False
        session.max_redirects = 0
        session.mount("https://", TrustAdapter(self.endpoint))
        return ProxmoxResource(base_url=backend.get_base_url(), session=session, serializer=backend.get_serializer())


def read_token(endpoint: Endpoint) -> Secret:
    """The token's secret, from the environment or its file. Raises HomelabError for none, or one that others read."""
    if value := os.environ.get(TOKEN_VARIABLE, "").strip():
        return Secret(value)
    path = endpoint.token_file
    try:
        mode = path.stat().st_mode
        value = path.read_text().strip()
    except OSError as error:
        raise HomelabError("The Proxmox token's secret cannot be read", f"{path}: {error.strerror}.",
                           f"`homelab init` asks for it and writes it there; ${TOKEN_VARIABLE} is used instead if it "
                           "is set.") from error
    if mode & 0o077:
        raise HomelabError("The Proxmox token's secret is readable by others", f"{path} has mode {mode & 0o777:o}.",
                           f"chmod 600 {path}")
    if not value:
        raise HomelabError("The Proxmox token's secret is empty", f"{path} has nothing in it.",
                           "Put the secret there that `pveum user token add` printed.")
    return Secret(value)
