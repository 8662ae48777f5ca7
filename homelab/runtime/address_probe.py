"""Whether somebody is at an address already: one connection to each, and what the kernel learnt by it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from homelab.runtime.concurrency import run_all

_SSH, _PATIENCE = 22, 1.0  # port, and seconds to wait for an answer
_ARP = Path("/proc/net/arp")
_COMPLETE = 0x2


def probe(address: IPv4Address, port: int = _SSH) -> None:
    """Connect and hang up. Raises OSError as the kernel does."""
    socket.create_connection((str(address), port), timeout=_PATIENCE).close()


def addresses_in_use(
    addresses: Iterable[IPv4Address],
    *,
    probe: Callable[[IPv4Address], None] = probe,
    neighbours: Callable[[], Mapping[str, str]] | None = None,
) -> dict[IPv4Address, str]:
    """How each address answers at which somebody is; those where nobody is are left out. Takes a second at most.

    A machine that drops the connection is found too where it is in one network with us: it has to say its MAC address.
    """
    asked, look = list(addresses), neighbours or partial(arp_table, _ARP)
    before = look()
    heard = {
        address: future.result()
        for address, future in zip(
            asked, run_all({str(a): partial(_heard, probe, a) for a in asked}).values(), strict=True
        )
    }
    # An older entry may be that of a machine that has gone.
    fresh = {ip: mac for ip, mac in look().items() if ip not in before}
    found = {
        address: said or (f"a network card answers, {fresh[str(address)]}" if str(address) in fresh else "")
        for address, said in heard.items()
    }
    return {address: said for address, said in found.items() if said}


def _heard(probe: Callable[[IPv4Address], None], address: IPv4Address) -> str:
    """What came back; nothing where no answer came in time, or no way leads there."""
    try:
        probe(address)
    except (ConnectionRefusedError, ConnectionResetError):
        return "a machine answers, and refuses SSH"
    except OSError:
        return ""
    return "a machine answers on port 22"


def arp_table(table: Path) -> dict[str, str]:
    """MAC addresses by address, from the kernel's table; empty where there is none, as on macOS."""
    if not table.exists():
        return {}
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return {row[0]: row[3] for row in rows if len(row) > 3 and int(row[2], 16) & _COMPLETE}
