"""SSH host keys: Proxmox logs their fingerprints in the create task, which we read over verified TLS."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from homelab.errors import HomelabError
from homelab.plan import ObservedGuest
from homelab.proxmox import description_metadata, tasks
from homelab.proxmox.client import Client

_ED25519 = "Creating SSH host key 'ssh_host_ed25519_key'"


def fingerprint_in(log: Iterable[str]) -> str | None:
    """Return the ed25519 key's fingerprint, `SHA256:…`. Keys have no fixed order: the line before names the type."""
    for line, following in pairwise(log):
        match = re.match(r"done: (SHA256:[A-Za-z0-9+/]{43})\b", following)
        if line.startswith(_ED25519) and match:
            return match[1]
    return None


def known(log: Sequence[str], name: str, vmid: int) -> str:
    """Return the fingerprint from a create's log. Raises HomelabError if it is missing."""
    fingerprint = fingerprint_in(log)
    if fingerprint is None:
        raise HomelabError(
            f"Cannot trust {name}: its SSH host key is unknown",
            f"The log of its creation ({len(log)} lines are left on the node) does not have the key's fingerprint.",
            _resolution(name, vmid),
        )
    return fingerprint


def _resolution(name: str, vmid: int) -> str:
    return (
        f"On the node: `pct exec {vmid} -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`; then here: "
        f"`homelab trust host {name} FINGERPRINT` with the fingerprint that it prints."
    )


def recover(client: Client, found: ObservedGuest, name: str) -> str:
    """Return an existing container's fingerprint from its create's log. Raises HomelabError if it is missing."""
    if description_metadata.is_clone(str(found.config.get("description", ""))):
        # Do not use an existing create log: it belongs to an earlier container with the same vmid.
        raise HomelabError(
            f"Cannot trust {name}: its SSH host key is unknown",
            "It is a clone: its keys were generated inside it, and no log of Proxmox has them.",
            _resolution(name, found.vmid),
        )
    creates = tasks.of_container(client, found.node, found.vmid, "vzcreate")
    return known(tasks.log(client, creates[0]) if creates else (), name, found.vmid)
