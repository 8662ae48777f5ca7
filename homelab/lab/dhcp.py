"""The lab's DHCP server: dnsmasq, on the lab's bridge only and without DNS. Debian's lxc depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

from homelab.lab.settings import Lab

_PORT = 67
_LEASE_TIME = "1h"


def command(lab: Lab, nameservers: Sequence[IPv4Address]) -> list[str]:
    """Return the words that run the server in the foreground; it logs to standard error."""
    first, last = lab.dhcp_range
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        "--keep-in-foreground",
        "--log-facility=-",
        "--pid-file=",
        "--port=0",  # no DNS
        f"--interface={lab.bridge}",
        "--except-interface=lo",
        "--bind-interfaces",
        "--dhcp-authoritative",
        f"--dhcp-range={first},{last},{lab.subnet.netmask},{_LEASE_TIME}",
        f"--dhcp-option=option:router,{lab.gateway}",
        f"--dhcp-option=option:dns-server,{','.join(map(str, nameservers))}",
        f"--dhcp-leasefile={lab.state_dir / 'dhcp.leases'}",
    ]


def listens() -> bool:
    """Check that a DHCP server listens on this machine."""
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{_PORT:04X}") for row in rows)
