"""Proxmox's container configuration and our Shape, one from the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Interface
from typing import Any

from homelab.model import Shape
from homelab.plan import Found

_GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
# Which of Proxmox's options holds which field of a Shape; the rest have the field's name.
_OPTION = {"bridge": "net0", "address": "net0", "gateway": "net0", "vlan": "net0", "nameservers": "nameserver",
           "nesting": "features", "startup_order": "startup"}


def parse(text: str) -> dict[str, str]:
    """A property string such as `name=eth0,bridge=vmbr0`; a bare first value has the key ``""``."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {key.strip() if mark else "": value if mark else key for key, mark, value in parts}


def write(properties: Mapping[str, object]) -> str:
    """The property string of these properties; those that are None are left out."""
    return ",".join(f"{key}={value}" if key else f"{value}"
                    for key, value in properties.items() if value is not None)


def tags(text: str | None) -> frozenset[str]:
    """Tags as Proxmox lists them: `a;b`, or a space where there are none."""
    return frozenset(re.split(r"[;,\s]+", text or "")) - {""}


def shape_of(config: Mapping[str, Any], vmid: int) -> Shape:
    """The shape that a configuration describes, with Proxmox's defaults for what it leaves out."""
    net = parse(str(config.get("net0", "")))
    return Shape(
        hostname=str(config.get("hostname", f"CT{vmid}")),
        cores=int(config.get("cores", 0)), memory=int(config.get("memory", 512)), swap=int(config.get("swap", 512)),
        disk=_gib(parse(str(config.get("rootfs", ""))).get("size", "0")),
        bridge=net.get("bridge", ""), address=_interface(net.get("ip", "")), gateway=_address(net.get("gw", "")),
        vlan=int(net["tag"]) if "tag" in net else None,
        nameservers=tuple(ip for word in re.split(r"[;,\s]+", str(config.get("nameserver", "")))
                          if (ip := _address(word))),
        searchdomain=str(config.get("searchdomain", "")).strip() or None,
        onboot=_flag(config.get("onboot")), unprivileged=_flag(config.get("unprivileged")),
        startup_order=_order(str(config.get("startup", ""))),
        nesting=_flag(parse(str(config.get("features", ""))).get("nesting")),
        tags=tags(str(config.get("tags", ""))), description=str(config.get("description", "")).strip())


def options(shape: Shape, names: Collection[str] | None = None, found: Found | None = None) -> dict[str, Any]:
    """The options that make a container of this shape, all or those of some fields; None means `delete`.

    What was found keeps what we do not manage: the network card's MAC address, further features.
    """
    net0 = parse(found.net0) if found else {}
    features = parse(found.features) if found else {}
    startup = parse(found.startup) if found else {}
    startup.pop("", None)  # the bare form of `order`
    everything: dict[str, Any] = {
        "hostname": shape.hostname, "cores": shape.cores, "memory": shape.memory, "swap": shape.swap,
        "net0": write({"name": "eth0"} | net0 | {"bridge": shape.bridge, "ip": shape.address or "manual",
                                                 "gw": shape.gateway, "tag": shape.vlan}),
        "nameserver": " ".join(map(str, shape.nameservers)) or None, "searchdomain": shape.searchdomain,
        "onboot": shape.onboot, "unprivileged": shape.unprivileged, "tags": ";".join(sorted(shape.tags)),
        "startup": write(startup | {"order": shape.startup_order}) or None,
        "features": write(features | {"nesting": int(shape.nesting)}), "description": shape.description,
    }
    if names is None:
        return {option: value for option, value in everything.items() if value is not None}
    return {option: everything[option] for option in dict.fromkeys(_OPTION.get(name, name) for name in names)}


def _gib(size: str) -> int:
    """Whole GiB of a size such as 8G, 512M or 1T: rounded down, so that it never looks larger than it is."""
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", size)
    return int(float(match[1]) * _UNITS[match[2]]) // _GIB if match else 0


def _flag(value: object) -> bool:
    return str(value) in ("1", "True", "true")


def _order(startup: str) -> int | None:
    properties = parse(startup)
    order = properties.get("order", properties.get("", ""))
    return int(order) if order.isdigit() else None


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _interface(text: str) -> IPv4Interface | None:
    try:
        return IPv4Interface(text)
    except ValueError:  # `dhcp`, `manual` or nothing
        return None
