"""Property strings of Proxmox, such as `name=eth0,bridge=vmbr0`, and the values in them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_interface

_TRUE = frozenset({"1", "on", "yes", "true"})  # Proxmox's own words


def parse(text: str) -> dict[str, str]:
    """Parse a property string such as `name=eth0,bridge=vmbr0`; a bare first value has the key ``""``."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    return {key.strip() if mark else "": value if mark else key for key, mark, value in parts}


def write(properties: Mapping[str, object]) -> str:
    """Render a property string, without properties that are None."""
    return ",".join(f"{key}={value}" if key else f"{value}" for key, value in properties.items() if value is not None)


def number(text: str | None) -> int | None:
    """Parse a whole number; None for other texts."""
    return int(text) if text and text.isdigit() else None


def flag(value: object) -> bool:
    """Parse one of Proxmox's words for true; False for all others."""
    return str(value).lower() in _TRUE


def ipv6(text: str | None) -> str | None:
    """Return the canonical text of an IPv6 address, with its prefix length if it has one; other texts unchanged."""
    try:
        return str(ip_interface(text)) if text and "/" in text else str(ip_address(text)) if text else None
    except ValueError:
        return text
