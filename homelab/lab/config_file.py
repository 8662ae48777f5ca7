"""The configuration file of a container as Proxmox writes it, `option: value` per line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NOT_KEPT = frozenset({"lock", "parent", "digest"})
_NUMBERS = frozenset({"cores", "cpuunits", "memory", "onboot", "protection", "swap", "tty", "unprivileged"})


def parse_config(text: str) -> dict[str, Any]:
    """Parse a Proxmox configuration file into its options; the comment lines are the description."""
    lines = text.partition("\n[")[0].splitlines()
    options = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
    description = "".join(f"{line[1:]}\n" for line in lines if line.startswith("#"))
    return {key: int(value) if key in _NUMBERS else value for key, value in options.items()} | (
        {"description": description} if description else {}
    )


def render_config(config: Mapping[str, Any]) -> str:
    """Render a configuration in Proxmox's file format, for the backup archive."""
    comments = "".join(f"#{line}\n" for line in str(config.get("description", "")).splitlines())
    return comments + "".join(
        f"{key}: {value}\n" for key, value in sorted(config.items()) if key != "description" and key not in _NOT_KEPT
    )
