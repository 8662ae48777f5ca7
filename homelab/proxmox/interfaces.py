"""The addresses of a running container, which Proxmox reads inside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from homelab.proxmox.client import Client
from homelab.proxmox.property_strings import parse


def read(
    client: Client, node: str, vmid: int, config: Mapping[str, Any]
) -> dict[str, Sequence[IPv4Interface | IPv6Interface]]:
    """Return the addresses of each network card by its option (`net0`), without link-local ones; in one call.

    A card without an address is missing: a container that has just been started has none for some seconds.
    """
    rows = client.get(f"nodes/{node}/lxc/{vmid}/interfaces") or ()  # null while it is stopped
    by_name = {str(row.get("name")): tuple(_addresses(row)) for row in rows}
    cards = {option: parse(str(value)).get("name", "") for option, value in config.items() if _is_card(option)}
    return {option: by_name[name] for option, name in cards.items() if by_name.get(name)}


def _is_card(option: str) -> bool:
    return re.fullmatch(r"net\d+", option) is not None


def _addresses(row: Mapping[str, Any]) -> Iterator[IPv4Interface | IPv6Interface]:
    """Yield the valid addresses: root of the container decides on the text."""
    for each in row.get("ip-addresses") or ():
        try:
            address = ip_interface(f"{each.get('ip-address')}/{each.get('prefix')}")
        except ValueError:
            continue
        if not address.is_link_local:
            yield address
