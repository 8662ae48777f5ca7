"""Addresses of the inventory: whole, or as the last part (`.67`) of the subnet."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from homelab.inventory.section import Section, shown

_SAYS = "an IPv4 address, whole or as its last part (`.67`)"


def subnet(table: Section, key: str) -> IPv4Network | None:
    """An IPv4 network in CIDR notation that leaves room for a gateway and a container."""
    text = table.text(key, says="a network such as 192.168.2.0/24")
    if text is None:
        return None
    try:
        network = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        table.fault(f"must be a network such as 192.168.2.0/24, not {shown(text)}: {error}", key)
        return None
    if "/" not in text or not 8 <= network.prefixlen <= 29:
        table.fault(f"must have a prefix length from /8 to /29, not {shown(text)}", key)
        return None
    return network


def parse(table: Section, value: object, network: IPv4Network | None, *path: str | int) -> IPv4Address | None:
    """One address; a fault stands at `path` below the table. Without a network a last part gives None."""
    if not isinstance(value, str):
        table.fault(f"must be {_SAYS}, not {shown(value)}", *path)
        return None
    short = re.fullmatch(r"\.([0-9]{1,3})", value)
    if short:
        if int(short[1]) > 255:
            table.fault(f"must be {_SAYS}, not {shown(value)}", *path)
            return None
        if network is None:
            return None
        return IPv4Address(int(network.network_address) & ~0xFF | int(short[1]))
    try:
        return IPv4Address(value)
    except AddressValueError:
        table.fault(f"must be {_SAYS}, not {shown(value)}", *path)
        return None


def networks(table: Section, key: str, subnet: IPv4Network | None) -> tuple[IPv4Network, ...]:
    """A list of networks and addresses; where there is none, the subnet."""
    items = table.items(key, None, says="a list of networks and addresses")
    if items is None:
        return (subnet,) if subnet else ()
    if not items:
        table.fault("must name at least one network or address, or be left out", key)
    return tuple(found for index, item in enumerate(items) if (found := _network(table, item, subnet, key, index)))


def _network(table: Section, value: object, subnet: IPv4Network | None, *path: str | int) -> IPv4Network | None:
    if isinstance(value, str) and "/" in value:
        try:
            return IPv4Network(value)
        except (AddressValueError, NetmaskValueError, ValueError) as error:
            table.fault(f"must be a network such as 192.168.2.0/24, not {shown(value)}: {error}", *path)
            return None
    address = parse(table, value, subnet, *path)
    return None if address is None else IPv4Network(address)


def inside(table: Section, key: str, network: IPv4Network | None) -> IPv4Address | None:
    """An address that a machine of the subnet can have."""
    value = table.value(key, says=_SAYS)
    address = None if value is None else parse(table, value, network, key)
    if address is None or network is None:
        return address
    if address not in network:
        table.fault(f"{address} is outside the subnet {network}", key)
        return None
    for name, taken in (("network", network.network_address), ("broadcast", network.broadcast_address)):
        if address == taken:
            table.fault(f"{address} is the {name} address of {network}", key)
            return None
    return address
