"""SSH host keys: Proxmox prints their fingerprints in the log of the create, over a channel that we have verified."""

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
    """The ed25519 key's fingerprint, `SHA256:…`. The keys come in any order: the line before says which it is."""
    for line, following in pairwise(log):
        match = re.match(r"done: (SHA256:[A-Za-z0-9+/]{43})\b", following)
        if line.startswith(_ED25519) and match:
            return match[1]
    return None


def known(log: Sequence[str], name: str, vmid: int) -> str:
    """The fingerprint from a create's log. Raises HomelabError with the way out if it is not in there."""
    fingerprint = fingerprint_in(log)
    if fingerprint is None:
        raise HomelabError(
            f"{name}: its SSH host key is not known",
            f"The log of its creation ({len(log)} lines are left on the node) does not have the key's fingerprint.",
            _way_out(name, vmid),
        )
    return fingerprint


def _way_out(name: str, vmid: int) -> str:
    return (
        f"On the node: `pct exec {vmid} -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`; then here: "
        f"`homelab trust {name} SHA256:…` with what it shows."
    )


def recover(client: Client, found: ObservedGuest, name: str) -> str:
    """The fingerprint of a container that exists, from its create's log. Raises HomelabError if that is gone."""
    if description_metadata.is_clone(str(found.config.get("description", ""))):
        # The log of a creation may be there all the same: of another one, which had its vmid before.
        raise HomelabError(
            f"{name}: its SSH host key is not known",
            "It is a clone: its keys were made inside it, and no log of Proxmox's names them.",
            _way_out(name, found.vmid),
        )
    creates = tasks.of_container(client, found.node, found.vmid, "vzcreate")
    return known(tasks.log(client, creates[0]) if creates else (), name, found.vmid)
