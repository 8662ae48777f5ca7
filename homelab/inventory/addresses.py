"""Addresses of the inventory: IPv4, whole or as the last part (`.67`) within the subnet; IPv6 for name servers."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Interface, NetmaskValueError
from typing import Any

from homelab.inventory.section import Section
from homelab.inventory.value_types import Text, anchored, shown
from homelab.inventory.yaml_source import KeyPath
from homelab.model import DHCP
from homelab.model.options import Option

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
WHOLE = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_LAST_PART = r"\.(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]?[0-9])"
_ADDRESS = f"{WHOLE}|{_LAST_PART}"
IPV6 = r"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}"
_NETWORK = rf"{WHOLE}/(?:0*(?:[0-9]|[12][0-9]|3[0-2])|{WHOLE})"
# A network with room for a gateway and a container; a netmask may be written instead of the prefix length.
SUBNET = rf"{WHOLE}/(?:0*(?:[89]|[12][0-9])|{WHOLE})"


def ipv6_option(default: str) -> Option:
    """Return the option for the IPv6 address of a network card; `default` is the text for a missing one."""
    return Option(
        f"IPv6: `auto` (SLAAC), `dhcp`, or an address with its prefix length; by default, {default}.",
        pattern=rf"auto|dhcp|{IPV6}/[0-9]{{1,3}}",
        expected="auto, dhcp, or an address with its prefix length such as 2001:db8::67/64",
        examples=("auto", "2001:db8::67/64"),
    )


class Address(Text):
    """The text of an address, or, with `networks`, of a network in CIDR notation, or, with `ipv6`, of either kind.

    With `dhcp`, that word is valid, too.
    """

    def __init__(self, *, networks: bool = False, ipv6: bool = False, dhcp: bool = False) -> None:
        expected = "an IPv4 address, whole or as its last part (`.67`)"
        expected += ", or an IPv6 address" * ipv6 + ", or dhcp" * dhcp
        pattern = f"{_ADDRESS}|.*/.*" if networks else f"{_ADDRESS}|{IPV6}" if ipv6 else _ADDRESS
        pattern += f"|{DHCP}" * dhcp
        super().__init__(Option(pattern=pattern, expected=expected))
        self._strict = f"{_ADDRESS}|{_NETWORK}" if networks else pattern

    def read(self, value: Any, section: Section, at: KeyPath) -> Any:
        if not isinstance(value, str) or (":" in value and not _is_ipv6(value)):
            return self.refuse(value, section, at)
        return super().read(value, section, at)

    def schema(self) -> Mapping[str, Any]:
        # Editors read YAML 1.2, where `.67` is a number; here it is text.
        number = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
        return {"anyOf": [{"type": "string", "pattern": anchored(self._strict)}, number]}


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def name_server(text: str, network: IPv4Network | None) -> IPv4Address | IPv6Address | None:
    """Parse the text of an address of either kind; None for a last part without a network."""
    return IPv6Address(text) if ":" in text else parse(text, network)


def subnet(section: Section, key: str, text: str) -> IPv4Network | None:
    """Parse a network in CIDR notation with room for a gateway and a container."""
    network = _network(section, text, key)
    if network is not None and ("/" not in text or not 8 <= network.prefixlen <= 29):
        section.problem(f"must have a prefix length from /8 to /29, not {shown(text)}", key)
        return None
    return network


def _network(section: Section, text: str, *at: str | int) -> IPv4Network | None:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        section.problem(f"must be a network such as 192.168.2.0/24, not {shown(text)}: {error}", *at)
        return None


def parse(text: str, network: IPv4Network | None) -> IPv4Address | None:
    """Parse the text of an address; None for a last part without a network."""
    if not text.startswith("."):
        return IPv4Address(text)
    if network is None:
        return None
    return IPv4Address(int(network.network_address) & ~0xFF | int(text[1:]))


def networks(section: Section, key: str, texts: tuple[str, ...], subnet: IPv4Network | None) -> tuple[IPv4Network, ...]:
    """Parse a list of addresses and networks; unreadable ones are left out."""
    found = []
    for index, text in enumerate(texts):
        if "/" in text:
            found.append(_network(section, text, key, index))
        elif (address := parse(text, subnet)) is not None:
            found.append(IPv4Network(address))
    return tuple(network for network in found if network is not None)


def ipv6(section: Section, text: str | None, gateway: str | None) -> tuple[str | None, str | None]:
    """Return `ip6` and `gw6` of a container in canonical form; None for a missing or invalid value."""
    address = None
    if text is not None and "/" in text:
        try:
            address = str(IPv6Interface(text))
        except ValueError as error:
            section.problem(f"cannot use {shown(text)}: {error}", "ip6")
    if gateway is None:
        return address or text, None
    if text is None or "/" not in text:
        section.problem("cannot use a gateway without an address in `ip6`: auto and dhcp bring their own", "gw6")
    elif not _is_ipv6(gateway):
        section.problem(f"cannot use {shown(gateway)}: not an IPv6 address", "gw6")
    else:
        return address, str(IPv6Address(gateway))
    return address or text, None


def host(section: Section, key: str, text: str | None, network: IPv4Network | None) -> IPv4Address | None:
    """Parse an address and check that a machine of the subnet can have it."""
    address = None if text is None else parse(text, network)
    if address is None or network is None:
        return address
    if address not in network:
        section.problem(f"{address} is outside the subnet {network}", key)
        return None
    for name, taken in (("network", network.network_address), ("broadcast", network.broadcast_address)):
        if address == taken:
            section.problem(f"{address} is the {name} address of {network}", key)
            return None
    return address
