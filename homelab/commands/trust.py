"""`homelab trust`: pin a container's SSH host key anew, after it was changed on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import KnownHosts, Pin
from homelab.known_hosts import fingerprint as fingerprint_of
from homelab.model import Container, Inventory
from homelab.plan import ObservedGuest, select_containers
from homelab.proxmox import Client, find_guests, hostkeys
from homelab.proxmox.vmids import resolve_vmids


def _shown(address: str) -> str | None:
    from homelab.ssh import shown_key

    return shown_key(address)


def trust(
    inventory: Inventory,
    name: str,
    fingerprint: str | None = None,
    *,
    known_hosts: KnownHosts,
    ask: Callable[[str], str] | None = None,
    shown: Callable[[str], str | None] = _shown,
) -> Pin:
    """Pin this fingerprint, `SHA256:…`, or without one that of the create's log on the node.

    Where the log is gone, or the container shows another key, `ask` is given a question with the command that reads
    the key on the node, and answers with what that printed; without `ask` that is the error. `shown` gives the key
    line that an address shows. What the container shows has to be what is pinned. Raises HomelabError.
    """
    (container,) = select_containers(inventory, [name])
    if fingerprint is None:
        client = Client(inventory.endpoint)
        inventory = resolve_vmids(client, inventory)
        (container,) = select_containers(inventory, [name])
        there = find_guests(client, inventory).get(container.vmid)
        if there is None or not there.belongs_to(container):
            raise HomelabError(
                f"{name} does not exist",
                f"There is no container of ours with vmid {container.vmid}.",
                "Run `homelab up` first.",
            )
        line = shown(str(container.address))
        fingerprint = _found_out(client, there, container, fingerprint_of(line) if line else None, ask)
    else:
        fingerprint = _given(fingerprint, container)
        line = shown(str(container.address))
    pin = _agreed(container, fingerprint, line)
    known_hosts.pin(name, pin)
    return pin


def _found_out(
    client: Client, there: ObservedGuest, container: Container, shown: str | None, ask: Callable[[str], str] | None
) -> str:
    """The fingerprint from the create's log if the container shows no other; else what the node's owner reads."""
    try:
        logged = hostkeys.recover(client, there, container.name)
        if shown in (None, logged):
            return logged
        error = HomelabError(
            f"{container.name} shows another SSH host key than it was made with",
            f"{container.address} shows {shown}, Proxmox's log of its creation has {logged}.",
            f"If the keys were made anew in it, read the new one on the node: `{_reading(container)}`; then here: "
            f"`homelab trust {container.name} SHA256:…` with what it shows. If not, another machine is answering.",
        )
    except HomelabError as missing:
        error = missing
    if ask is None:
        raise error
    return _given(
        ask(
            f"{error.brief}. {error.details}\nOn node {there.node}, as root:\n  {_reading(container)}\n"
            "What does it print?"
        ),
        container,
    )


def _reading(container: Container) -> str:
    return f"pct exec {container.vmid} -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


def _given(text: str, container: Container) -> str:
    """The fingerprint in what somebody has typed: alone, or in the whole line that ssh-keygen prints."""
    match = re.search(r"(?<!\S)SHA256:[A-Za-z0-9+/]{43}(?!\S)", text)
    if match is None:
        raise InputError(
            "That is not a host key's fingerprint",
            f"{text!r} has no SHA256:… with 43 characters.",
            f"On the node: `{_reading(container)}` shows it.",
        )
    return match[0]


def _agreed(container: Container, fingerprint: str, line: str | None) -> Pin:
    """The pin, if the container shows this key, or does not answer now."""
    if line and fingerprint_of(line) != fingerprint:
        raise HomelabError(
            f"{container.name} does not show that SSH host key",
            f"{container.address} shows {fingerprint_of(line)}, not {fingerprint}. Nothing is trusted.",
            f"Compare on the node: `{_reading(container)}`. If it shows what you gave, another machine is answering at "
            f"{container.address}.",
        )
    return Pin(fingerprint, line)
