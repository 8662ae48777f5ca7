"""Proxmox's errors in words for people: what it said, and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ssl import SSLCertVerificationError, SSLEOFError, SSLZeroReturnError

import requests
from proxmoxer.core import ResourceException

from homelab.errors import HomelabError
from homelab.model import Endpoint
from homelab.proxmox.privileges import grant
from homelab.proxmox.tls import fetch_fingerprint

REFUSED = 500  # nearly everything that Proxmox does not do; it has no 404
_GATEWAY = frozenset({502, 503, 504, 596, 597, 598, 599})
NODE_DOWN = 595  # Proxmox's own: it cannot reach the node that the call is about


class ProxmoxError(HomelabError):
    """Proxmox answered with an error; `status` is the HTTP status."""

    def __init__(self, status: int, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief, details, resolution)
        self.status = status


class Unanswered(HomelabError):
    """No answer came back, or a gateway's: whether the call has arrived is not known."""


class GatewayError(ProxmoxError, Unanswered):
    """A proxy on the way answered, not Proxmox itself."""


def is_transient(error: HomelabError) -> bool:
    """Whether the same read may well succeed in a moment. Proxmox says 500 also for what passes, as a restart of it."""
    return isinstance(error, Unanswered) or (isinstance(error, ProxmoxError) and error.status == REFUSED)


def answered(error: ResourceException, endpoint: Endpoint, call: str) -> ProxmoxError:
    """An error that Proxmox answered with. The real text is the reason phrase, and per parameter `errors`."""
    status, said = int(error.status_code), str(error.content).strip()
    if status == 401:
        return ProxmoxError(
            status,
            f"Proxmox refused the token {endpoint.token_id}",
            f"It said: {said}.",
            f"Is the token there (`pveum user token list {endpoint.token_id.partition('!')[0]}`), and "
            f"is its secret in {endpoint.token_file}? `homelab init` makes a new start.",
        )
    if status == 403:
        return ProxmoxError(
            status, "Proxmox does not allow that to this token", f"`{call}`: {said}.", grant(said, endpoint.token_id)
        )
    if status == NODE_DOWN:
        return ProxmoxError(
            status,
            "A Proxmox node does not answer",
            f"`{call}`: {said}.",
            "See in the web interface whether the node is up, then run the same command again.",
        )
    if status in _GATEWAY:
        return GatewayError(
            status,
            f"Proxmox at {endpoint.host}:{endpoint.port} cannot answer right now",
            f"`{call}`: {status} {said}.",
            "See whether the node is starting or overloaded, then run the same command again.",
        )
    if "no quorum" in said:
        return ProxmoxError(
            status,
            "The cluster has no quorum, so it changes nothing",
            f"`{call}`: {said}.",
            "Bring the missing nodes back (`pvecm status` on a node), then run the same command again.",
        )
    if "is locked" in said or "can't lock file" in said:
        vmid = re.search(r"lxc/(\d+)", call)
        return ProxmoxError(
            status,
            "The container is locked",
            f"`{call}`: {said}.",
            "Wait for the task that holds it, then run the same command again. If nothing runs any "
            f"more: `pct unlock {vmid[1] if vmid else 'VMID'}` on the node.",
        )
    parameters = error.errors if isinstance(error.errors, Mapping) else {}
    lines = [f"  {name}: {text.strip()}" for name, text in parameters.items() if isinstance(text, str)]
    return ProxmoxError(
        status,
        "Proxmox refused a call",
        "\n".join([f"`{call}`: {status} {said}", *lines]),
        "Nothing else was done after it. Mend the cause and run the same command again.",
    )


def unreachable(error: requests.RequestException, endpoint: Endpoint, call: str) -> HomelabError:
    """An error on the way to Proxmox."""
    where = f"{endpoint.host}:{endpoint.port}"
    if isinstance(error, requests.exceptions.SSLError) and not _hung_up(error):
        return _untrusted(error, endpoint, where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return Unanswered(
            f"Proxmox at {where} takes too long to answer",
            f"`{call}` had no answer in time.",
            "See whether the node is overloaded, then run the same command again.",
        )
    if isinstance(error, requests.exceptions.ConnectionError):
        # A connection that never came about in all that time was repeated already, by TCP itself.
        kind = HomelabError if isinstance(error, requests.exceptions.ConnectTimeout) else Unanswered
        return kind(
            f"Proxmox at {where} cannot be reached",
            f"`{call}`: {_cause(error)}.",
            "Is `proxmox.host` in the inventory right, and is the node up and reachable from here?",
        )
    return Unanswered(
        f"Proxmox at {where} gave no usable answer",
        f"`{call}`: {_cause(error)}.",
        "Is it Proxmox VE that answers there, and not a proxy?",
    )


def _untrusted(error: requests.RequestException, endpoint: Endpoint, where: str) -> HomelabError:
    if endpoint.fingerprint:
        return HomelabError(
            f"{where} does not show the pinned certificate",
            f"It shows {_shown(endpoint)}, pinned is {endpoint.fingerprint}; the token has not been sent.",
            "If the certificate was renewed: compare it with `pvenode cert info` on the node, and put the new "
            "fingerprint into the inventory.",
        )
    authority = f"the CA file {endpoint.ca_file}" if endpoint.ca_file else "this machine's CAs"
    return HomelabError(
        f"The certificate of {where} is not trusted",
        f"By {authority}: {_cause(error)}. The token has not been sent.",
        "Pin it: `fingerprint:` under `proxmox:` in the inventory; `pvenode cert info` on the node shows it.",
    )


def _hung_up(error: BaseException) -> bool:
    return any(isinstance(cause, SSLEOFError | SSLZeroReturnError | ConnectionError) for cause in _chain(error))


def _shown(endpoint: Endpoint) -> str:
    try:
        return fetch_fingerprint(endpoint.host, endpoint.port)
    except HomelabError:
        return "none that could be read"


def _cause(error: BaseException) -> str:
    """The innermost cause: the layers around it only repeat where they were."""
    text = str(error)
    for cause in _chain(error):
        text = str(cause) or text
        if isinstance(cause, SSLCertVerificationError):
            return cause.verify_message
    return text.strip(" .")


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
