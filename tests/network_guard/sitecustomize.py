"""The network guard: refuse every connection except those to loopback and to the lab's subnet.

Python imports a module of this name when it starts, so the guard also applies to programs that tests start. An audit
hook cannot be removed.
"""

import ipaddress
import sys

_ALLOWED = [ipaddress.ip_network(text) for text in ("127.0.0.0/8", "::1/128", "10.99.2.0/24")]


class RefusedByGuard(PermissionError):
    """A test tried to reach another machine."""


def _allowed(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in _ALLOWED if network.version == address.version)


def _guard(event: str, args: tuple) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        if isinstance(address, tuple) and not _allowed(str(address[0])):
            raise RefusedByGuard(f"the tests' guard refuses {event} to {address[0]}")
    elif event == "socket.getaddrinfo" and isinstance(args[0], str) and not _allowed(args[0]):
        raise RefusedByGuard(f"the tests' guard refuses to look up {args[0]}")


sys.addaudithook(_guard)
