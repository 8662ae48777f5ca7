"""Whether somebody is at an address: from the connection's end, and from what the kernel learnt by it."""

from __future__ import annotations

import errno
import socket
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from homelab.runtime.address_probe import addresses_in_use, arp_table, probe

A, B, C, D = (IPv4Address(f"192.0.2.{last}") for last in (1, 2, 3, 4))
TABLE = """IP address       HW type     Flags       HW address            Mask     Device
192.0.2.1        0x1         0x2         bc:24:11:00:00:01     *        eth0
192.0.2.2        0x1         0x0         00:00:00:00:00:00     *        eth0
192.0.2.3        0x1         0x6         bc:24:11:00:00:03     *        eth0
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "a machine answers on port 22"),
        (ConnectionRefusedError(), "a machine answers and refuses SSH"),
        (ConnectionResetError(), "a machine answers and refuses SSH"),
        (TimeoutError(), None),
        (OSError(errno.EHOSTUNREACH, "No route to host"), None),
        (OSError(errno.ENETUNREACH, "unreachable"), None),
        (PermissionError(), None),
    ],
)
def test_how_a_connection_ends(error: OSError | None, said: str | None) -> None:
    def ends(_: IPv4Address) -> None:
        if error:
            raise error

    assert addresses_in_use([A], probe=ends, neighbours=dict).get(A) == said


def test_a_machine_that_drops_everything_still_says_its_mac_address() -> None:
    tables = [{str(A): "old"}, {str(A): "old", str(B): "bc:24:11:00:00:02"}]

    def dropped(_: IPv4Address) -> None:
        raise TimeoutError

    # What was known before may have gone since.
    assert addresses_in_use([A, B, C], probe=dropped, neighbours=lambda: tables.pop(0)) == {
        B: "a network card answers, bc:24:11:00:00:02"
    }


def test_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    assert arp_table(table) == {}
    table.write_text(TABLE)
    assert arp_table(table) == {str(A): "bc:24:11:00:00:01", str(C): "bc:24:11:00:00:03"}


def test_real_connections() -> None:
    here = IPv4Address("127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert addresses_in_use([here], probe=partial(probe, port=port)) == {here: "a machine answers on port 22"}
    assert addresses_in_use([here], probe=partial(probe, port=port)) == {here: "a machine answers and refuses SSH"}
    assert addresses_in_use([]) == {}
