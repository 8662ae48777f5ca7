"""Addresses in use: one connection to each, and the kernel's ARP table after it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from homelab.runtime.concurrency import run_all

_SSH, _TIMEOUT = 22, 1.0  # port, and seconds to wait for an answer
_ARP = Path("/proc/net/arp")
_COMPLETE = 0x2


def probe(address: IPv4Address, port: int = _SSH) -> None:
    """Connect and disconnect. Raises OSError."""
    socket.create_connection((str(address), port), timeout=_TIMEOUT).close()


def addresses_in_use(
    addresses: Iterable[IPv4Address],
    *,
    probe: Callable[[IPv4Address], None] = probe,
    neighbours: Callable[[], Mapping[str, str]] | None = None,
) -> dict[IPv4Address, str]:
    """Map each address in use to its response; free addresses are omitted. Takes at most a second.

    Also finds a machine on the same network that drops the connection: ARP makes it answer with its MAC address.
    """
    probed, read_neighbours = list(addresses), neighbours or partial(arp_table, _ARP)
    before = read_neighbours()
    futures = run_all({str(address): partial(_response, probe, address) for address in probed})
    responses = {address: futures[str(address)].result() for address in probed}
    # An older entry may belong to a machine that has left the network.
    new = {ip: mac for ip, mac in read_neighbours().items() if ip not in before}
    found = {
        address: response or (f"a network card answers, {new[str(address)]}" if str(address) in new else "")
        for address, response in responses.items()
    }
    return {address: response for address, response in found.items() if response}


def _response(probe: Callable[[IPv4Address], None], address: IPv4Address) -> str:
    """Return the response, empty without an answer or a route."""
    try:
        probe(address)
    except (ConnectionRefusedError, ConnectionResetError):
        return "a machine answers and refuses SSH"
    except OSError:
        return ""
    return "a machine answers on port 22"


def arp_table(table: Path) -> dict[str, str]:
    """Return the kernel's MAC addresses by address; empty without such a table, as on macOS."""
    if not table.exists():
        return {}
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return {row[0]: row[3] for row in rows if len(row) > 3 and int(row[2], 16) & _COMPLETE}
