"""Files inside a container's root, written safely: symlinks in the container cannot redirect a write to the host."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from stat import S_ISREG

from homelab.lab.subids import FIRST


def parse_properties(text: str) -> dict[str, str]:
    """Parse a Proxmox property string such as `name=eth0,bridge=vmbr0`; a bare first value has the key `volume`."""
    found = {}
    for number, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        elif part and number == 0:
            found["volume"] = part
    return found


def network_devices(config: Mapping[str, object]) -> dict[int, dict[str, str]]:
    """Return the container's `net<n>` entries by number."""
    return {
        int(key[3:]): parse_properties(str(value))
        for key, value in sorted(config.items())
        if re.fullmatch(r"net\d+", key)
    }


def interfaces(devices: Mapping[int, Mapping[str, str]]) -> str:
    """Render /etc/network/interfaces as Proxmox does."""
    parts = ["auto lo\niface lo inet loopback\n"]
    for device in devices.values():
        name, address = device.get("name", "eth0"), device.get("ip", "manual")
        if "/" in address:
            lines = [f"auto {name}", f"iface {name} inet static", f"\taddress {address}"]
            lines += [f"\tgateway {device['gw']}"] if "gw" in device else []
        else:
            lines = [f"auto {name}", f"iface {name} inet {address}"]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def hosts(hostname: str, searchdomain: str, devices: Mapping[int, Mapping[str, str]]) -> str:
    """Render /etc/hosts, with the container's name at its own address."""
    static = [device["ip"].split("/")[0] for device in devices.values() if "/" in device.get("ip", "")]
    names = f"{hostname}.{searchdomain} {hostname}" if searchdomain else hostname
    return (
        f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{static[0] if static else '127.0.1.1'} "
        f"{names}\n"
    )


def settings(config: Mapping[str, object], resolvers: Sequence[IPv4Address]) -> dict[str, bytes]:
    """Return the files that Proxmox writes at every start; `resolvers` are the default name servers."""
    devices = network_devices(config)
    domain = str(config.get("searchdomain") or "").strip()
    servers = str(config.get("nameserver") or "").split() or [str(resolver) for resolver in resolvers]
    resolv = "".join([f"search {domain}\n"] * bool(domain) + [f"nameserver {server}\n" for server in servers])
    name = str(config["hostname"])
    return {
        "etc/hostname": f"{name}\n".encode(),
        "etc/hosts": hosts(name, domain, devices).encode(),
        "etc/network/interfaces": interfaces(devices).encode(),
        "etc/resolv.conf": resolv.encode(),
    }


def write_inside(root: Path, files: Mapping[str, bytes], mode: int = 0o644, owner: int = FIRST) -> None:
    """Replace files below `root`; their default owner is the container's root.

    Replace a symlink at the end of a path. Raises OSError if a parent folder is a symlink.
    """
    for name, content in files.items():
        *folders, last = name.split("/")
        with _open_folder(root, folders, owner) as folder:
            draft = f".{last}.{secrets.token_hex(4)}"
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=folder)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)
                os.fchown(handle, owner, owner)
                file.write(content)
            os.replace(draft, last, src_dir_fd=folder, dst_dir_fd=folder)


def remove_inside(root: Path, name: str) -> None:
    """Remove a regular file below `root`; does nothing if it is missing. Raises OSError like `write_inside`."""
    *folders, last = name.split("/")
    with _open_folder(root, folders, FIRST) as folder, suppress(FileNotFoundError):
        if S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode):
            os.unlink(last, dir_fd=folder)


@contextmanager
def _open_folder(root: Path, folders: Sequence[str], owner: int) -> Iterator[int]:
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            try:
                deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            except FileNotFoundError:
                os.mkdir(folder, 0o700 if folder.startswith(".") else 0o755, dir_fd=handle)
                os.chown(folder, owner, owner, dir_fd=handle, follow_symlinks=False)
                deeper = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = deeper
        yield handle
    finally:
        os.close(handle)
