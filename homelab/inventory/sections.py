"""The sections of an inventory, each read into its type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from homelab.inventory import addresses, schedule
from homelab.inventory.container_defaults import BRIDGE
from homelab.inventory.section import Section, shown
from homelab.model import City, Endpoint, Network, Pipeline

_RUN = 10  # minutes that the ingestion has for one run
_DOMAIN = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"


def path(table: Section, key: str, default: str | None = None) -> Path | None:
    """A path, relative to the file in which it is written; None where none is given."""
    text = table.text(key, default, says="a path")
    return None if text is None else (table.file(key).parent / Path(text).expanduser()).absolute()


def endpoint(table: Section) -> Endpoint:
    """`proxmox:`, where Proxmox answers and how we trust it."""
    fingerprint = table.text(
        "fingerprint",
        None,
        pattern=r"(?i)[0-9a-f]{2}(:?[0-9a-f]{2}){31}",
        says="a SHA-256 fingerprint: 64 hexadecimal digits in pairs, `AA:BB:…`",
    )
    ca_file = path(table, "ca_file")
    if fingerprint and ca_file:
        table.fault("stands beside `fingerprint`: one of them decides whom we trust, keep one", "ca_file")
    result = Endpoint(
        host=table.text("host", pattern=_DOMAIN, says="a host name or an address, without `https://`"),
        port=table.whole("port", 8006, low=1, high=65535),
        node=node(table),
        token_id=table.text(
            "token_id",
            pattern=r"[^\s@!:/]+@[A-Za-z][\w.-]+![A-Za-z][\w.-]*",
            says="user@realm!name, as in homelab@pve!cli",
        ),
        token_file=path(table, "token_file", ".homelab/proxmox-token") or Path(),
        fingerprint=":".join(re.findall("..", fingerprint.replace(":", "").upper())) if fingerprint else None,
        ca_file=ca_file,
        max_parallel=table.whole("max_parallel", 4, low=1, high=64),
    )
    table.close()
    return result


def node(table: Section, default: str | None = None) -> Any:
    """The Proxmox node's name."""
    return table.text("node", default, pattern=r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", says="a node's name")


def network(table: Section) -> Network | None:
    """`network:`, or None when the addresses cannot be read."""
    subnet = addresses.subnet(table, "subnet")
    gateway = addresses.inside(table, "gateway", subnet)
    bridge = table.text("bridge", pattern=BRIDGE, says="a bridge of the node, such as vmbr0")
    vlan = table.whole("vlan", None, low=1, high=4094)
    mtu = table.whole("mtu", None, low=576, high=65535, unit="bytes")
    items = table.items("nameservers", [], says="a list of addresses") or []
    nameservers = [addresses.parse(table, item, subnet, "nameservers", index) for index, item in enumerate(items)]
    searchdomain = table.text("searchdomain", None, pattern=_DOMAIN, says="a domain")
    ssh_allowed_from = addresses.networks(table, "ssh_allowed_from", subnet)
    table.close()
    if subnet is None or gateway is None:
        return None
    return Network(
        subnet=subnet,
        gateway=gateway,
        bridge=bridge,
        vlan=vlan,
        mtu=mtu,
        searchdomain=searchdomain,
        ssh_allowed_from=ssh_allowed_from,
        nameservers=tuple(ip for ip in nameservers if isinstance(ip, IPv4Address)),
    )


def pipeline(table: Section) -> Pipeline:
    """`pipeline:`, what is fetched and how often."""
    cities_file = _cities_file(table)
    cities = () if cities_file else tuple(_cities(table))
    names = [city.name for city in cities]
    for index, name in enumerate(names):
        if name in names[:index]:
            table.fault(f"{name!r} stands in the list twice", "cities", index)
    units = table.choice("units", ("standard", "metric", "imperial"), "imperial")
    when = table.text("schedule", "@hourly", says="a schedule")
    wrong = schedule.objection(when) if when else None
    if wrong:
        table.fault(wrong, "schedule")
    api_url = (
        table.text(
            "api_url",
            "https://api.openweathermap.org",
            pattern=r"https?://[^\s/?#]+(/[^\s?#]*)?",
            says="an http or https URL",
        )
        or ""
    )
    api_key_file = path(table, "api_key_file", ".homelab/openweather-api-key") or Path()
    rate_limit = table.whole("rate_limit", 60, low=0, high=1_000_000, unit="requests a minute")
    if rate_limit and len(cities) > rate_limit * _RUN:
        table.fault(
            f"has {len(cities)} cities, and at {rate_limit} requests a minute a run of {_RUN} minutes asks for "
            f"{rate_limit * _RUN}",
            "cities",
        )
    table.close()
    return Pipeline(
        cities=cities,
        units=units,
        schedule=when,
        api_url=api_url.rstrip("/"),
        api_key_file=api_key_file,
        cities_file=cities_file,
        rate_limit=rate_limit,
    )


def _cities_file(table: Section) -> Path | None:
    """`cities: {file: …}`; what is in it is read where it is used."""
    if not isinstance(table.data.get("cities"), dict):
        return None
    below = table.table("cities")
    text = below.text("file", pattern=r"\S(.*\S)?\.(csv|json)", says="a path that ends in .csv or .json")
    below.close()
    return (below.file("file").parent / Path(text).expanduser()).absolute() if text else None


def _cities(table: Section) -> Iterator[City]:
    items = table.items("cities", says='a list such as ["Newark,US", "Berlin,DE"]')
    if items == []:
        table.fault("must name at least one city", "cities")
    for index, item in enumerate(items or []):
        if isinstance(item, str) and item.strip():
            yield City(name=item)
        elif isinstance(item, dict):
            yield _city(table.below(item, "cities", index))
        else:
            table.fault(
                f'must be a name such as "Berlin,DE", or a mapping with name and id or latitude and '
                f"longitude, not {shown(item)}",
                "cities",
                index,
            )


def _city(table: Section) -> City:
    city = City(
        name=table.text("name", says="a city's name") or "",
        id=table.whole("id", None, low=1, high=1 << 31),
        latitude=table.fraction("latitude", low=-90, high=90),
        longitude=table.fraction("longitude", low=-180, high=180),
    )
    if ("latitude" in table.data) != ("longitude" in table.data):
        table.fault("needs both latitude and longitude, or neither")
    elif "id" in table.data and "latitude" in table.data:
        table.fault("has both an id and coordinates: one of them says where it is, keep one")
    table.close()
    return city
