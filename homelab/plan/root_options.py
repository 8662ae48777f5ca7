"""Options that only root@pam may set: devices of the node, and folders of the node that are mounted in a container."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from homelab.model import Container


def expressed(container: Container, config: Mapping[str, Any]) -> frozenset[str]:
    """Return the options of a container's configuration that its `devices` and `bind_mounts` ask for."""
    devices, binds = _present(config)
    return frozenset(
        [option for device, option in devices.items() if device in container.devices]
        + [option for pair, option in binds.items() if pair in container.bind_mounts.items()]
    )


def missing_command(container: Container, config: Mapping[str, Any]) -> str | None:
    """Return the command for root on the node that adds the missing options, or None if there are none."""
    devices, binds = _present(config)
    # New mount points of the inventory take the lowest free numbers.
    reserved = {f"mp{number}" for number in range(len(container.shape.mounts))}
    free_devices, free_mounts = _free("dev", config), _free("mp", {*config, *reserved})
    words = [word for each in container.devices if each not in devices for word in (f"--{next(free_devices)}", each)]
    for path, source in container.bind_mounts.items():
        if (path, source) not in binds:
            words += [f"--{next(free_mounts)}", f"{source},mp={path}"]
    return shlex.join(["pct", "set", str(container.vmid), *words]) if words else None


def _present(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Return the options of devices by path, and those of bind mounts by the path inside and the folder of the node."""
    devices, binds = {}, {}
    for option, value in config.items():
        first, *others = str(value).split(",")
        if re.fullmatch(r"dev\d+", option):
            devices[first.removeprefix("path=")] = option
        elif re.fullmatch(r"mp\d+", option) and first.startswith("/"):
            path = next((each.removeprefix("mp=") for each in others if each.startswith("mp=")), "")
            binds[path, first] = option
    return devices, binds


def _free(prefix: str, taken: Mapping[str, Any] | set[str]) -> Iterator[str]:
    return (option for option in (f"{prefix}{number}" for number in range(256)) if option not in taken)
