"""`networks:` of a container: its further network cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Annotated

from homelab.inventory import addresses
from homelab.inventory.network_section import Bridge, Mtu, VlanTag
from homelab.inventory.section import Section
from homelab.inventory.value_types import shown
from homelab.model import DHCP, NetworkCard
from homelab.model.options import KeyNames, Option


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCardSection:
    """The keys of a further network card."""

    bridge: Bridge
    ip: Annotated[
        str | None,
        Option(
            "IPv4: `dhcp`, or an address with its prefix length; by default, none.",
            pattern=rf"dhcp|{addresses.WHOLE}/[0-9]{{1,2}}",
            expected="dhcp, or an address with its prefix length such as 10.20.0.67/24",
            examples=("dhcp", "10.20.0.67/24"),
        ),
    ] = None
    ip6: Annotated[str | None, addresses.ipv6_option("none")] = None
    vlan: VlanTag = None
    mtu: Mtu = None


Networks = Annotated[
    Mapping[str, Annotated[NetworkCardSection, Option(expected="a mapping with bridge, ip, ip6, vlan, mtu")]],
    Option(
        "Further network cards, by their names in Proxmox.",
        expected="network cards by name, as in net1",
        keys=KeyNames(r"net([1-9]|[12][0-9]|3[01])", "must be net1 to net31; the keys of the container are its net0"),
        examples=({"net1": {"bridge": "vmbr1", "ip": "10.20.0.67/24"}},),
    ),
]


def network_cards(
    section: Section, cards: Mapping[str, NetworkCardSection], *, firewall: bool
) -> tuple[NetworkCard, ...]:
    """Return the network cards, sorted by their names; record invalid addresses."""
    return tuple(
        NetworkCard(
            option=option,
            bridge=card.bridge,
            ip=_ipv4(section.below("networks", option), card.ip),
            ip6=addresses.ipv6(section.below("networks", option), card.ip6, None)[0],
            vlan=card.vlan,
            mtu=card.mtu,
            firewall=firewall,
        )
        for option, card in sorted(cards.items())
    )


def _ipv4(section: Section, text: str | None) -> str | None:
    """Return the address in canonical form; None for a missing or invalid one."""
    if text is None or text == DHCP:
        return text
    try:
        address = IPv4Interface(text)
    except ValueError as error:
        section.problem(f"cannot use {shown(text)}: {error}", "ip")
        return None
    network = address.network
    if network.prefixlen < 31 and address.ip in (network.network_address, network.broadcast_address):
        section.problem(f"{address.ip} is the network or broadcast address of {network}", "ip")
    return str(address)
