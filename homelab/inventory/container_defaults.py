"""What may stand both under `defaults:` and at a container: where it is put, and how Proxmox treats it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homelab.inventory.section import Section, shown
from homelab.model import Mount, Network

NAME = r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]"
BRIDGE = r"[A-Za-z][\w.-]{1,14}"
HOST_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_TAG = r"(?!homelab)[a-z0-9_][a-z0-9_.+-]*"
_PUBLIC_KEY = (
    r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp\d+|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com) "
    r"[A-Za-z0-9+/=]+( .*)?"
)
_FLAGS = ("nesting", "keyctl", "fuse", "mknod", "force_rw_sys")
_FEATURE = rf"{'|'.join(_FLAGS)}|mount=[a-z0-9;]+"
_LARGEST = 1 << 17  # GiB


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefaults:
    """The values of a container, or the defaults of all of them; the fields are the keys of the inventory."""

    template: str = "ubuntu-24.04"
    template_storage: str = "local"
    storage: str = "local-lvm"
    backup_storage: str | None = None
    pool: str | None = None
    bridge: str = ""
    vlan: int | None = None
    mtu: int | None = None
    firewall: bool = False
    swap: int = 512
    disk: int = 8
    onboot: bool = True
    start_delay: int | None = None
    stop_timeout: int | None = None
    protection: bool = False
    features: frozenset[str] = frozenset({"nesting"})
    tags: frozenset[str] = frozenset()
    ssh_keys: tuple[str, ...] = ()
    clone_from: str | None = None

    @classmethod
    def on(cls, network: Network | None) -> ContainerDefaults:
        """The defaults where the inventory has none: the network card's are those of the network."""
        return cls(bridge=network.bridge, vlan=network.vlan, mtu=network.mtu) if network else cls()


def container_defaults(table: Section, defaults: ContainerDefaults) -> ContainerDefaults:
    """A placement, with the defaults for what is not given. What is wrong is recorded, and the default stands."""
    given: dict[str, Any] = {
        "template": table.text("template", None, says="a template's alias or volume id"),
        "template_storage": table.text("template_storage", None, pattern=NAME, says="a storage's name"),
        "storage": table.text("storage", None, pattern=NAME, says="a storage's name"),
        "backup_storage": table.text("backup_storage", None, pattern=NAME, says="a storage's name"),
        "pool": table.text("pool", None, pattern=r"[A-Za-z0-9._/-]+", says="a pool's name"),
        "bridge": table.text("bridge", None, pattern=BRIDGE, says="a bridge of the node, such as vmbr0"),
        "vlan": table.whole("vlan", None, low=1, high=4094),
        "mtu": table.whole("mtu", None, low=576, high=65535, unit="bytes"),
        "firewall": table.flag("firewall", defaults.firewall),
        "swap": table.whole("swap", None, low=0, high=1 << 20, unit="MiB"),
        "disk": table.whole("disk", None, low=1, high=_LARGEST, unit="GiB"),
        "onboot": table.flag("onboot", defaults.onboot),
        "start_delay": table.whole("start_delay", None, low=0, high=3600, unit="seconds"),
        "stop_timeout": table.whole("stop_timeout", None, low=0, high=3600, unit="seconds"),
        "protection": table.flag("protection", defaults.protection),
        "features": _texts(table, "features", _FEATURE, f"one of {', '.join(_FLAGS)}, or mount=nfs"),
        "tags": _texts(table, "tags", _TAG, "a tag: lower-case letters, digits, _ . + -, not beginning with homelab"),
        "ssh_keys": _ssh_keys(table),
        "clone_from": table.text("clone_from", None, pattern=HOST_NAME, says="the name of a baked container"),
    }
    for key in ("features", "tags"):
        given[key] = None if given[key] is None else frozenset(given[key])
    return replace(defaults, **{key: value for key, value in given.items() if value is not None})


def mounts(table: Section, storage: str) -> tuple[Mount, ...]:
    """`mounts:` of a container: a size in GiB by path, or a mapping with size, storage and backup."""
    found = []
    for path, value in table.data.items():
        table.asked.append(path)
        if not re.fullmatch(r"(/[^/,\s=]+)+", path) or "/../" in f"{path}/":
            table.fault("must be an absolute path, as in /var/lib/postgresql", path)
        below = table.below(
            {"size": value} if isinstance(value, int) else value,
            path,
            says="a size in GiB, or a mapping with size, storage, backup",
        )
        size = below.whole("size", low=1, high=_LARGEST, unit="GiB")
        found.append(
            Mount(
                path=path,
                size=size or 1,
                backup=below.flag("backup", True),
                storage=below.text("storage", storage, pattern=NAME, says="a storage's name") or storage,
            )
        )
        below.close()
    return tuple(sorted(found))


def _texts(table: Section, key: str, pattern: str, says: str) -> list[str] | None:
    items = table.items(key, None)
    for index, item in enumerate(items or []):
        if not isinstance(item, str) or not re.fullmatch(pattern, item):
            table.fault(f"must be {says}, not {shown(item)}", key, index)
    return items if items is None else [item for item in items if isinstance(item, str)]


def _ssh_keys(table: Section) -> tuple[str, ...] | None:
    items = table.items("ssh_keys", None, says="a list of public keys, or of files with them")
    if items is None:
        return None
    return tuple(dict.fromkeys(key for index, item in enumerate(items) for key in _keys_of(table, item, index)))


def _keys_of(table: Section, item: object, index: int) -> Iterator[str]:
    if not isinstance(item, str):
        table.fault(f"must be a public key or a file with some, not {shown(item)}", "ssh_keys", index)
        return
    lines = [item] if re.match(_PUBLIC_KEY, item) else _lines_of(table, item, index)
    for line in lines:
        if re.fullmatch(_PUBLIC_KEY, line):
            yield line
        else:
            table.fault(f"is not a public key: {shown(line)}", "ssh_keys", index)


def _lines_of(table: Section, name: str, index: int) -> list[str]:
    path = table.file("ssh_keys").parent / Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        table.fault(f"{path} cannot be read: {reason}", "ssh_keys", index)
        return []
    # Comments are refused by Proxmox, so they stay behind.
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
