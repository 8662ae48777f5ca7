"""Proxmox's errors as readable errors, with a resolution."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ssl import SSLCertVerificationError, SSLEOFError, SSLZeroReturnError

import requests
from proxmoxer.core import ResourceException

from homelab.errors import HomelabError
from homelab.model import ProxmoxApi
from homelab.proxmox.privileges import grant
from homelab.proxmox.tls import CERTIFICATE_FILE, fetch_fingerprint

REFUSED = 500  # Proxmox's status for nearly every refusal; it has no 404
_GATEWAY = frozenset({502, 503, 504, 596, 597, 598, 599})
NODE_DOWN = 595  # Proxmox's own status: it cannot reach the node of the call


class ProxmoxError(HomelabError):
    """Error response of Proxmox; `status` is the HTTP status."""

    def __init__(self, status: int, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief, details, resolution)
        self.status = status


class Unanswered(HomelabError):
    """Missing answer, or one of a gateway: Proxmox may have received the call or not."""


class GatewayError(ProxmoxError, Unanswered):
    """Error response of a proxy on the way, not of Proxmox itself."""


def is_transient(error: HomelabError) -> bool:
    """Check that the same read may succeed later. Proxmox also answers 500 to transient failures, e.g. its restart."""
    return isinstance(error, Unanswered) or (isinstance(error, ProxmoxError) and error.status == REFUSED)


def answered(error: ResourceException, endpoint: ProxmoxApi, call: str) -> ProxmoxError:
    """Return the error for an error response. Its text is the HTTP reason phrase, and `errors` per parameter."""
    status, text = int(error.status_code), str(error.content).strip()
    if status == 401:
        return ProxmoxError(
            status,
            f"Cannot log in to Proxmox: it refused the token {endpoint.token_id}",
            f"{text}. Proxmox answers this for a wrong secret, and for an expired or missing token or a disabled user.",
            f"On the node, `pveum user token list {endpoint.token_id.partition('!')[0]}` shows the token and when it "
            f"expires, `pveum user list` whether the user is enabled. The secret is read from {endpoint.token_file}. "
            "`homelab init` sets all of them up again.",
        )
    if status == 403:
        return ProxmoxError(
            status,
            "Cannot call Proxmox: the token lacks a privilege",
            f"`{call}`: {text}.",
            grant(text, endpoint.token_id),
        )
    if status == NODE_DOWN:
        return ProxmoxError(
            status,
            "Cannot reach a Proxmox node: it does not answer",
            f"`{call}`: {text}.",
            "Check in the web interface that the node is up, then run the same command again.",
        )
    if status in _GATEWAY:
        return GatewayError(
            status,
            f"Cannot reach Proxmox at {endpoint.host}:{endpoint.port}: gateway error",
            f"`{call}`: {status} {text}.",
            "Check that the node is up and not overloaded, then run the same command again.",
        )
    if "no quorum" in text:
        return ProxmoxError(
            status,
            "Cannot change the cluster: it has no quorum",
            f"`{call}`: {text}.",
            "Bring the missing nodes back (`pvecm status` on a node), then run the same command again.",
        )
    if "is locked" in text or "can't lock file" in text:
        vmid = re.search(r"lxc/(\d+)", call)
        return ProxmoxError(
            status,
            "Cannot change the container: it is locked",
            f"`{call}`: {text}.",
            "Wait for the task that holds the lock, then run the same command again. If no task runs "
            f"any more: `pct unlock {vmid[1] if vmid else 'VMID'}` on the node.",
        )
    parameters = error.errors if isinstance(error.errors, Mapping) else {}
    lines = [f"  {name}: {reason.strip()}" for name, reason in parameters.items() if isinstance(reason, str)]
    return ProxmoxError(
        status,
        "Cannot call Proxmox: it refused the call",
        "\n".join([f"`{call}`: {status} {text}", *lines]),
        "No further change was made. Fix the cause, then run the same command again.",
    )


def unreachable(error: requests.RequestException, endpoint: ProxmoxApi, call: str) -> HomelabError:
    """Return the error for a connection failure."""
    where = f"{endpoint.host}:{endpoint.port}"
    if isinstance(error, requests.exceptions.SSLError) and not _hung_up(error):
        return _untrusted(error, endpoint, where)
    if isinstance(error, requests.exceptions.ReadTimeout):
        return Unanswered(
            f"Cannot reach Proxmox at {where}: no answer in time",
            f"The call was `{call}`.",
            "Check that the node is up and not overloaded, then run the same command again.",
        )
    if isinstance(error, requests.exceptions.ConnectionError):
        # No repetition after a connect timeout: TCP itself has already retried.
        kind = HomelabError if isinstance(error, requests.exceptions.ConnectTimeout) else Unanswered
        return kind(
            f"Cannot reach Proxmox at {where}: the connection failed",
            f"`{call}`: {_cause(error)}.",
            "Check `proxmox.host` in the inventory, and that the node is up and reachable from here.",
        )
    return Unanswered(
        f"Cannot use the answer of Proxmox at {where}: it is not valid HTTP",
        f"`{call}`: {_cause(error)}.",
        "Check that `proxmox.host` in the inventory is the node itself, and not a proxy.",
    )


def _untrusted(error: requests.RequestException, endpoint: ProxmoxApi, where: str) -> HomelabError:
    if endpoint.fingerprint:
        return HomelabError(
            f"Cannot trust {where}: its certificate is not the pinned one",
            f"It presents {_presented(endpoint)}, pinned is {endpoint.fingerprint}; the token was not sent.",
            "If the certificate was renewed: compare it with `pvenode cert info` on the node "
            f"({CERTIFICATE_FILE}), and write the new fingerprint in the inventory.",
        )
    authority = f"the CA file {endpoint.ca_file}" if endpoint.ca_file else "this machine's CAs"
    return HomelabError(
        f"Cannot trust {where}: its certificate is not signed by a trusted CA",
        f"Checked against {authority}: {_cause(error)}. The token was not sent.",
        "Pin it: `fingerprint:` under `proxmox:` in the inventory; `pvenode cert info` on the node shows it "
        f"({CERTIFICATE_FILE}).",
    )


def _hung_up(error: BaseException) -> bool:
    return any(isinstance(cause, SSLEOFError | SSLZeroReturnError | ConnectionError) for cause in _chain(error))


def _presented(endpoint: ProxmoxApi) -> str:
    try:
        return fetch_fingerprint(endpoint.host, endpoint.port)
    except HomelabError:
        return "no readable certificate"


def _cause(error: BaseException) -> str:
    """Return the text of the innermost cause, which the outer exceptions only repeat."""
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
