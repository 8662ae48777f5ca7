"""`homelab trust host`: pin a container's SSH host key again after it was changed on purpose."""

from __future__ import annotations

import re
from collections.abc import Callable

from homelab.errors import HomelabError, InputError
from homelab.known_hosts import Pin
from homelab.known_hosts import fingerprint as fingerprint_of
from homelab.model import Container
from homelab.plan import ObservedGuest, select_containers
from homelab.proxmox import Client, find_guests, hostkeys
from homelab.proxmox.vmids import resolve_vmids
from homelab.runtime.container_addresses import locate
from homelab.runtime.session import Session


def _shown_key(address: str) -> str | None:
    from homelab.ssh import shown_key

    return shown_key(address)


def trust_host(
    session: Session,
    name: str,
    fingerprint: str | None = None,
    *,
    ask: Callable[[str], str] | None = None,
    shown: Callable[[str], str | None] = _shown_key,
) -> Pin:
    """Pin a fingerprint (`SHA256:…`); without one, the fingerprint in Proxmox's log of the container's creation.

    If the log no longer exists or the container shows another key, `ask` receives a question with the command that
    reads the key on the node, and returns that command's output; without `ask`, that is the error. `shown` returns
    the key line that an address shows; a container that answers must show the pinned key. Raises HomelabError.
    """
    session = session.on(locate(session.inventory))
    (container,) = select_containers(session.inventory, [name])
    if fingerprint is None:
        client = Client(session.inventory.endpoint)
        inventory = resolve_vmids(client, session.inventory)
        (container,) = select_containers(inventory, [name])
        there = find_guests(client, inventory).get(container.vmid)
        if there is None or not there.belongs_to(container):
            raise HomelabError(
                f"Cannot find {name}: it does not exist",
                f"Proxmox has no container of this lab with vmid {container.vmid}.",
                "Run `homelab up` first.",
            )
        line = shown(str(container.address))
        fingerprint = _find_fingerprint(client, there, container, fingerprint_of(line) if line else None, ask)
    else:
        fingerprint = _parse(fingerprint, container)
        line = shown(str(container.address))
    pin = _verify(container, fingerprint, line)
    session.known_hosts.pin(name, pin)
    return pin


def _find_fingerprint(
    client: Client, there: ObservedGuest, container: Container, shown: str | None, ask: Callable[[str], str] | None
) -> str:
    """Return the logged fingerprint if the container shows no other one; else the one that the user reads."""
    try:
        logged = hostkeys.recover(client, there, container.name)
        if shown in (None, logged):
            return logged
        error = HomelabError(
            f"Cannot trust {container.name}: it shows another SSH host key than at its creation",
            f"{container.address} shows {shown}, Proxmox's log of its creation has {logged}.",
            f"If you regenerated its keys, read the new one on the node: `{_reading(container)}`; then here: "
            f"`homelab trust host {container.name} FINGERPRINT`. If not, another machine is answering.",
        )
    except HomelabError as missing:
        error = missing
    if ask is None:
        raise error
    question = f"On node {there.node}, as root:\n  {_reading(container)}\nIts output"
    return _parse(ask(f"{error.brief}. {error.details}\n{question}"), container)


def _reading(container: Container) -> str:
    return f"pct exec {container.vmid} -- ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"


def _parse(text: str, container: Container) -> str:
    """Return the fingerprint in a text: alone, or in the line that ssh-keygen prints."""
    match = re.search(r"(?<!\S)SHA256:[A-Za-z0-9+/]{43}(?!\S)", text)
    if match is None:
        raise InputError(
            "Cannot read the host key's fingerprint",
            f"{text!r} has no SHA256: followed by 43 characters.",
            f"On the node, `{_reading(container)}` prints it.",
        )
    return match[0]


def _verify(container: Container, fingerprint: str, line: str | None) -> Pin:
    """Return the pin. Raises HomelabError if the container answers with another key."""
    if line and fingerprint_of(line) != fingerprint:
        raise HomelabError(
            f"Cannot trust {container.name}: it does not show that SSH host key",
            f"{container.address} shows {fingerprint_of(line)}, not {fingerprint}. Nothing was pinned.",
            f"Compare on the node: `{_reading(container)}`. If it prints your fingerprint, another machine answers at "
            f"{container.address}.",
        )
    return Pin(fingerprint, line)
