"""The IP sets `ipfilter-net0`, …: a container's own addresses that Proxmox does not know from its configuration.

Proxmox's IP filter drops packets from other addresses than those of the configuration and of the set. An existing set
is enforced even without the filter's switch, so an empty one drops everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator

from homelab.model.firewall import NO_ADDRESS
from homelab.proxmox.client import Client
from homelab.proxmox.errors import Unanswered

_PREFIX = "ipfilter-"
_TRIES = 3  # attempts to send a change when the answers are lost
_PAUSE = 0.2  # seconds before reading the sets after a lost answer


def read(client: Client, path: str, cards: Collection[str]) -> frozenset[tuple[str, str]]:
    """Return the addresses in the sets of these network cards; no call without cards, one for each set otherwise."""
    if not cards:
        return frozenset()
    names = {str(row["name"]) for row in client.get(path)}
    return frozenset(
        (card, address)
        for card in cards
        if f"{_PREFIX}{card}" in names
        for address in _addresses(client, f"{path}/{_PREFIX}{card}")
    )


def add(client: Client, path: str, wanted: Collection[tuple[str, str]]) -> None:
    """Add the missing addresses, and their sets. Raises HomelabError."""

    def send() -> None:
        names = {str(row["name"]) for row in client.get(path)}
        for card in sorted({card for card, _ in wanted}):
            name = f"{_PREFIX}{card}"
            present = set(_addresses(client, f"{path}/{name}")) if name in names else set[str]()
            if name not in names:
                client.post(path, name=name, comment="homelab: addresses by DHCP and SLAAC")
            for address in sorted({own for of, own in wanted if of == card} - present):
                client.post(f"{path}/{name}", cidr=address)

    if wanted:
        _until_answered(send)


def remove_others(client: Client, path: str, wanted: Collection[tuple[str, str]], cards: Collection[str]) -> None:
    """Remove all other addresses of these network cards, and the sets of those without any. Raises HomelabError."""
    keeping = {card for card, _ in wanted}

    def send() -> None:
        surplus = read(client, path, cards) - frozenset(wanted)
        for card in sorted({card for card, _ in surplus} - keeping):
            client.delete(f"{path}/{_PREFIX}{card}", force=True)
        for card, address in sorted(surplus):
            if card in keeping:
                client.delete(f"{path}/{_PREFIX}{card}/{address}")

    _until_answered(send)


def _addresses(client: Client, path: str) -> Iterator[str]:
    entries = [str(row["cidr"]) for row in client.get(path)]
    yield from entries or [NO_ADDRESS]


def _until_answered(send: Callable[[], None]) -> None:
    """Repeat changes after a lost answer; each repetition reads first."""
    for _ in range(_TRIES):
        try:
            send()
            return
        except Unanswered as error:
            lost = error
        time.sleep(_PAUSE)
    raise lost
