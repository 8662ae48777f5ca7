"""Conversion between Proxmox's container configuration and our Shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, ip_address
from typing import Any, Literal

from homelab.model import DHCP, ContainerConfig, Mount
from homelab.proxmox import description_metadata, network_cards
from homelab.proxmox.property_strings import flag, ipv6, number, parse, write

_GIB = 1 << 30
_FALSE = frozenset({"0", "off", "no", "false"})  # Proxmox's own words
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
# The Proxmox option of each Shape field; other fields have the option's name.
_OPTION = {
    "bridge": "net0",
    "address": "net0",
    "gateway": "net0",
    "ip6": "net0",
    "gw6": "net0",
    "vlan": "net0",
    "mtu": "net0",
    "firewall": "net0",
    "nameservers": "nameserver",
    "startup_order": "startup",
    "backup": "mounts",
    "start_delay": "startup",
    "stop_timeout": "startup",
    "by_hand": "net0",
}
_NET0 = frozenset({"name", "bridge", "ip", "gw", "ip6", "gw6", "tag", "mtu", "firewall"})
_IPV6 = ("ip6", "gw6")
_ROOTFS, _MOUNT = frozenset({"", "size"}), frozenset({"", "mp", "size", "backup"})
# Options that the inventory covers, and those that are not settings of a user.
_COVERED = frozenset(
    {
        "hostname",
        "cores",
        "memory",
        "swap",
        "rootfs",
        "net0",
        "nameserver",
        "searchdomain",
        "onboot",
        "startup",
        "features",
        "unprivileged",
        "protection",
        "tags",
        "description",
        "arch",
        "ostype",
        "digest",
        "lock",
        "parent",
        "template",
    }
)


def tags(text: str | None) -> frozenset[str]:
    """Parse tags as Proxmox lists them: `a;b`, or a space if there are none."""
    return frozenset(re.split(r"[;,\s]+", text or "")) - {""}


def shape_of(config: Mapping[str, Any], vmid: int, pool: str | None = None) -> ContainerConfig:
    """Return the shape that a configuration describes, with Proxmox's defaults for missing options."""
    net, startup = parse(str(config.get("net0", ""))), _startup(config)
    return ContainerConfig(
        hostname=str(config.get("hostname", f"CT{vmid}")),
        cores=int(config.get("cores", 0)),
        memory=int(config.get("memory", 512)),
        swap=int(config.get("swap", 512)),
        disk=_gib(parse(str(config.get("rootfs", ""))).get("size", "0")),
        mounts=tuple(sorted(mount for mount, _ in mounts(config).values())),
        bridge=net.get("bridge", ""),
        address=_interface(net.get("ip", "")),
        gateway=_address(net.get("gw", "")),
        ip6=ipv6(net.get("ip6")),
        gw6=ipv6(net.get("gw6")),
        vlan=number(net.get("tag")),
        mtu=number(net.get("mtu")),
        firewall=flag(net.get("firewall")),
        networks=network_cards.read(config),
        nameservers=tuple(
            map(ip_address, filter(_is_address, re.split(r"[;,\s]+", str(config.get("nameserver", "")))))
        ),
        searchdomain=str(config.get("searchdomain", "")).strip() or None,
        onboot=flag(config.get("onboot")),
        unprivileged=flag(config.get("unprivileged")),
        startup_order=number(startup.get("order")),
        start_delay=number(startup.get("up")),
        stop_timeout=number(startup.get("down")),
        features=_features(config),
        pool=pool,
        protection=flag(config.get("protection")),
        by_hand=frozenset(f"net0 {key}={value}" for key, value in net.items() if key not in _NET0 | network_cards.KEPT),
        tags=tags(str(config.get("tags", ""))),
        description=description_metadata.strip(str(config.get("description", ""))),
    )


def mounts(config: Mapping[str, Any]) -> dict[str, tuple[Mount, str]]:
    """Return the mount points on storage volumes, each with its volume id, by option (`mp0`)."""
    found = {}
    for option, value in config.items():
        properties = parse(str(value)) if re.fullmatch(r"mp\d+", option) else {}
        storage, colon, _ = properties.get("", "").partition(":")
        if colon and not storage.startswith("/"):
            found[option] = (
                Mount(
                    properties.get("mp", ""),
                    _gib(properties.get("size") or _new_volume(properties[""])),
                    flag(properties.get("backup")),
                    storage,
                ),
                properties[""],
            )
    return found


def disk_option(config: Mapping[str, Any], path: str) -> str:
    """Return the option of the disk mounted at a path: `rootfs` for `/`, or `mp0`. Raises KeyError if there is none."""
    return ({"/": "rootfs"} | {mount.path: option for option, (mount, _) in mounts(config).items()})[path]


def not_spoken_of(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that an inventory cannot express, in short form: `net1`, `rootfs acl=1`."""
    volumes = mounts(config)
    for option, value in sorted(config.items()):
        if option in volumes or option == "rootfs":
            own = _MOUNT if option in volumes else _ROOTFS
            yield from (f"{option} {key}={given}" for key, given in parse(str(value)).items() if key not in own)
        elif option not in _COVERED and not option.startswith("unused"):
            yield option


def options(
    shape: ContainerConfig, names: Collection[str] | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the options for a shape, all or those of some fields; None means `delete`.

    The network card keeps its name and MAC address from `config`.
    """
    present = parse(str((config or {}).get("net0", "")))
    net0 = {key: value for key, value in present.items() if key in network_cards.KEPT | {"name"}}
    # Without `ip6` in the inventory, values that were set by hand stay.
    ipv6 = {key: getattr(shape, key) if shape.ip6 else present.get(key) for key in _IPV6}
    everything: dict[str, Any] = {
        "hostname": shape.hostname,
        "cores": shape.cores,
        "memory": shape.memory,
        "swap": shape.swap,
        "net0": write(
            {"name": "eth0"}
            | net0
            | {
                "bridge": shape.bridge,
                "ip": shape.address or "manual",
                "gw": shape.gateway,
                **ipv6,
                "tag": shape.vlan,
                "mtu": shape.mtu,
                "firewall": 1 if shape.firewall else None,
            }
        ),
        "nameserver": " ".join(map(str, shape.nameservers)) or None,
        "searchdomain": shape.searchdomain,
        "onboot": shape.onboot,
        "unprivileged": shape.unprivileged,
        "tags": ";".join(sorted(shape.tags)),
        "startup": write({"order": shape.startup_order, "up": shape.start_delay, "down": shape.stop_timeout}) or None,
        "features": write({name: value or 1 for name, _, value in (f.partition("=") for f in sorted(shape.features))})
        or None,
        "protection": shape.protection,
        "description": description_metadata.carry_over(shape.description, str((config or {}).get("description", ""))),
    }
    everything |= {card.option: network_cards.render(card, config or {}) for card in shape.networks}
    if names is None:
        return {option: value for option, value in everything.items() if value is not None}
    wanted = dict.fromkeys(_OPTION.get(name, name) for name in names)
    return {option: everything[option] for option in wanted if option in everything} | (
        mount_options(shape, config or {}) if "mounts" in wanted else {}
    )


def revertable(wanted: ContainerConfig, live: ContainerConfig, names: Collection[str]) -> frozenset[str]:
    """Return the options of these fields that have the wanted live value, so that only a pending value differs."""
    groups = {card.option: [card.option] for card in wanted.networks}
    for field in fields(ContainerConfig):
        groups.setdefault(_OPTION.get(field.name, field.name), []).append(field.name)
    return frozenset(
        option
        for option in {_OPTION.get(name, name) for name in names} - {"mounts"}
        if all(wanted.value(field) == live.value(field) for field in groups[option])
    )


def mount_options(shape: ContainerConfig, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the options for missing mount points and for those with a wrong `backup` flag."""
    existing = {mount.path: (option, mount, volume) for option, (mount, volume) in mounts(config).items()}
    free = (f"mp{number}" for number in range(256) if f"mp{number}" not in config)
    made = {}
    for mount in shape.mounts:
        if mount.path not in existing:
            made[next(free)] = write(
                {"": f"{mount.storage}:{mount.size}", "mp": mount.path, "backup": int(mount.backup)}
            )
            continue
        option, found, _ = existing[mount.path]
        if found.backup != mount.backup:
            # With the current size, because Proxmox stores the text unchanged.
            size = f"{max(mount.size, found.size)}G"
            made[option] = write(parse(str(config[option])) | {"backup": str(int(mount.backup)), "size": size})
    return made


def _new_volume(volume: str) -> str:
    """Return the size of a mount point that is pending: `store:4` is a volume of 4 GiB that the next start makes."""
    size = volume.partition(":")[2]
    return f"{size}G" if re.fullmatch(r"[0-9.]+", size) else "0"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _gib(size: str) -> int:
    """Convert a size such as 8G, 512M or 1T to whole GiB, rounded down so that it never looks larger than it is."""
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", size)
    return int(float(match[1]) * _UNITS[match[2]]) // _GIB if match else 0


def _features(config: Mapping[str, Any]) -> frozenset[str]:
    given = parse(str(config.get("features", "")))
    return frozenset(
        name if flag(value) else f"{name}={value}" for name, value in given.items() if value.lower() not in _FALSE
    )


def _startup(config: Mapping[str, Any]) -> dict[str, str]:
    properties = parse(str(config.get("startup", "")))
    return {"order": properties.pop("", "")} | properties  # `3` is the bare form of `order=3`


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _interface(text: str) -> IPv4Interface | Literal["dhcp"] | None:
    if text == DHCP:
        return DHCP
    try:
        return IPv4Interface(text)
    except ValueError:  # `manual` or nothing
        return None
