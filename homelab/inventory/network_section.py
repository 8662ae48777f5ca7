"""`network:`, the subnet of the containers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from homelab.inventory import addresses
from homelab.inventory.declaration import declaration_of
from homelab.inventory.section import Section
from homelab.inventory.value_types import anchored
from homelab.model import Network
from homelab.model.inventory import DOMAIN
from homelab.model.options import Option

Bridge = Annotated[
    str,
    Option(
        "Bridge of the node that the containers are connected to.",
        pattern=r"[A-Za-z][A-Za-z0-9_.-]{1,14}",
        expected="a bridge of the node, such as vmbr0",
        examples=("vmbr0",),
    ),
]
VlanTag = Annotated[int | None, Option("VLAN tag; by default, untagged.", low=1, high=4094)]
Mtu = Annotated[int | None, Option("MTU in bytes; by default, that of the bridge.", low=576, high=65535, unit="bytes")]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSection:
    """The keys of `network:`."""

    subnet: Annotated[
        str,
        Option(
            "Subnet of the containers in CIDR notation, from /8 to /29.",
            expected="a network such as 192.168.2.0/24",
            examples=("192.168.2.0/24",),
            schema={"pattern": anchored(addresses.SUBNET)},
        ),
    ]
    gateway: Annotated[
        str, Option("Address of the gateway, whole or as its last part.", examples=(".1",)), addresses.Address()
    ]
    bridge: Bridge
    vlan: VlanTag = None
    mtu: Mtu = None
    nameservers: Annotated[
        tuple[Annotated[str, addresses.Address()], ...],
        Option("Addresses of the name servers; by default, those of the node.", expected="a list of addresses"),
    ] = ()
    searchdomain: Annotated[
        str | None,
        Option("Search domain of the containers; by default, that of the node.", pattern=DOMAIN, expected="a domain"),
    ] = None
    ssh_allowed_from: Annotated[
        tuple[Annotated[str, addresses.Address(networks=True)], ...] | None,
        Option(
            "Addresses and networks that the firewall admits to SSH; by default, the subnet.",
            expected="a list of networks and addresses",
            empty="must name at least one network or address, or be left out",
        ),
    ] = None


def network(section: Section) -> Network | None:
    """Read the section; None if the subnet or the gateway is missing or invalid."""
    found: NetworkSection = declaration_of(NetworkSection).build(section)
    subnet = addresses.subnet(section, "subnet", found.subnet) if found.subnet else None
    gateway = addresses.host(section, "gateway", found.gateway, subnet)
    nameservers = [addresses.parse(text, subnet) for text in found.nameservers]
    ssh_allowed_from = addresses.networks(section, "ssh_allowed_from", found.ssh_allowed_from or (), subnet)
    if subnet is None or gateway is None:
        return None
    return Network(
        subnet=subnet,
        gateway=gateway,
        bridge=found.bridge,
        vlan=found.vlan,
        mtu=found.mtu,
        searchdomain=found.searchdomain,
        ssh_allowed_from=ssh_allowed_from or (subnet,),
        nameservers=tuple(address for address in nameservers if address is not None),
    )
