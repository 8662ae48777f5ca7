"""Proxmox's container configuration and our Shape, one from the other."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import AddressValueError, IPv4Address, IPv4Interface
from typing import Any

from homelab.model import ContainerConfig, Mount
from homelab.proxmox import description_metadata

_GIB = 1 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": _GIB, "T": 1 << 40}
# Which of Proxmox's options holds which field of a Shape; the rest have the field's name.
_OPTION = {
    "bridge": "net0",
    "address": "net0",
    "gateway": "net0",
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
_NET0 = frozenset({"name", "bridge", "ip", "gw", "tag", "mtu", "firewall"})
_NET0_KEPT = frozenset({"hwaddr", "type"})  # Proxmox's own, and neither is a decision of anybody
_ROOTFS, _MOUNT = frozenset({"", "size"}), frozenset({"", "mp", "size", "backup"})
# Options that the inventory speaks of, and those that say nothing about what somebody wants.
_SPOKEN_OF = frozenset(
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


def parse(text: str) -> dict[str, str]:
    """A property string such as `name=eth0,bridge=vmbr0`; a bare first value has the key ``""``."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {key.strip() if mark else "": value if mark else key for key, mark, value in parts}


def write(properties: Mapping[str, object]) -> str:
    """The property string of these properties; those that are None are left out."""
    return ",".join(f"{key}={value}" if key else f"{value}" for key, value in properties.items() if value is not None)


def tags(text: str | None) -> frozenset[str]:
    """Tags as Proxmox lists them: `a;b`, or a space where there are none."""
    return frozenset(re.split(r"[;,\s]+", text or "")) - {""}


def shape_of(config: Mapping[str, Any], vmid: int, pool: str | None = None) -> ContainerConfig:
    """The shape that a configuration describes, with Proxmox's defaults for what it leaves out."""
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
        vlan=_number(net.get("tag")),
        mtu=_number(net.get("mtu")),
        firewall=_flag(net.get("firewall")),
        nameservers=tuple(
            ip for word in re.split(r"[;,\s]+", str(config.get("nameserver", ""))) if (ip := _address(word))
        ),
        searchdomain=str(config.get("searchdomain", "")).strip() or None,
        onboot=_flag(config.get("onboot")),
        unprivileged=_flag(config.get("unprivileged")),
        startup_order=_number(startup.get("order")),
        start_delay=_number(startup.get("up")),
        stop_timeout=_number(startup.get("down")),
        features=_features(config),
        pool=pool,
        protection=_flag(config.get("protection")),
        by_hand=frozenset(f"net0 {key}={value}" for key, value in net.items() if key not in _NET0 | _NET0_KEPT),
        tags=tags(str(config.get("tags", ""))),
        description=description_metadata.strip(str(config.get("description", ""))),
    )


def mounts(config: Mapping[str, Any]) -> dict[str, tuple[Mount, str]]:
    """The mount points that are volumes of a storage, each with its volume id, by option (`mp0`)."""
    found = {}
    for option, value in config.items():
        properties = parse(str(value)) if re.fullmatch(r"mp\d+", option) else {}
        storage, colon, _ = properties.get("", "").partition(":")
        if colon and not storage.startswith("/"):
            found[option] = (
                Mount(
                    properties.get("mp", ""),
                    _gib(properties.get("size", "0")),
                    _flag(properties.get("backup")),
                    storage,
                ),
                properties[""],
            )
    return found


def disk_option(config: Mapping[str, Any], path: str) -> str:
    """The option of the disk that is mounted there: `rootfs` for `/`, `mp0`. Raises KeyError if there is none."""
    return ({"/": "rootfs"} | {mount.path: option for option, (mount, _) in mounts(config).items()})[path]


def not_spoken_of(config: Mapping[str, Any]) -> Iterator[str]:
    """What somebody has set that no inventory can say, each as people would write it: `net1`, `rootfs acl=1`."""
    volumes = mounts(config)
    for option, value in sorted(config.items()):
        if option in volumes or option == "rootfs":
            own = _MOUNT if option in volumes else _ROOTFS
            yield from (f"{option} {key}={given}" for key, given in parse(str(value)).items() if key not in own)
        elif option not in _SPOKEN_OF and not option.startswith("unused"):
            yield option


def options(
    shape: ContainerConfig, names: Collection[str] | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The options that make a container of this shape, all or those of some fields; None means `delete`.

    Of what `config` has, the network card keeps its name and MAC address.
    """
    net0 = {
        key: value for key, value in parse(str((config or {}).get("net0", ""))).items() if key in _NET0_KEPT | {"name"}
    }
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
    if names is None:
        return {option: value for option, value in everything.items() if value is not None}
    wanted = dict.fromkeys(_OPTION.get(name, name) for name in names)
    return {option: everything[option] for option in wanted if option in everything} | (
        mount_options(shape, config or {}) if "mounts" in wanted else {}
    )


def mount_options(shape: ContainerConfig, config: Mapping[str, Any]) -> dict[str, str]:
    """The options that make the mount points which are missing, or are in or out of backups against the wish."""
    there = {mount.path: (option, mount, volume) for option, (mount, volume) in mounts(config).items()}
    free = (f"mp{number}" for number in range(256) if f"mp{number}" not in config)
    made = {}
    for mount in shape.mounts:
        if mount.path not in there:
            made[next(free)] = write(
                {"": f"{mount.storage}:{mount.size}", "mp": mount.path, "backup": int(mount.backup)}
            )
            continue
        option, found, _ = there[mount.path]
        if found.backup != mount.backup:
            # With the size that it has by now: Proxmox takes the text over as it is.
            size = f"{max(mount.size, found.size)}G"
            made[option] = write(parse(str(config[option])) | {"backup": str(int(mount.backup)), "size": size})
    return made


def _gib(size: str) -> int:
    """Whole GiB of a size such as 8G, 512M or 1T: rounded down, so that it never looks larger than it is."""
    match = re.fullmatch(r"([0-9.]+)([KMGT]?)", size)
    return int(float(match[1]) * _UNITS[match[2]]) // _GIB if match else 0


def _features(config: Mapping[str, Any]) -> frozenset[str]:
    given = parse(str(config.get("features", "")))
    return frozenset(name if value == "1" else f"{name}={value}" for name, value in given.items() if value != "0")


def _startup(config: Mapping[str, Any]) -> dict[str, str]:
    properties = parse(str(config.get("startup", "")))
    return {"order": properties.pop("", "")} | properties  # `3` is the bare form of `order=3`


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _flag(value: object) -> bool:
    return str(value) in ("1", "True", "true")


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
