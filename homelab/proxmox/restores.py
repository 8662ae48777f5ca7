"""Restore a container from a backup, after checking that the backup is its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from homelab.errors import HomelabError, InputError
from homelab.model import Container
from homelab.progress import Progress
from homelab.proxmox import tasks
from homelab.proxmox.client import Client
from homelab.proxmox.properties import tags
from homelab.proxmox.property_strings import parse, write
from homelab.proxmox.tasks import Task

_DEADLINE = 6 * 3600.0  # timeout of a restore in seconds
_SHOWN = 70  # maximum length of a log line on the progress line
_MAKING = ("vzcreate", "vzclone", "vzrestore")
_UNITS = {"": 1 / 1024**3, "K": 1 / 1024**2, "M": 1 / 1024, "G": 1, "T": 1024}  # in GiB


def config_of(client: Client, node: str, volid: str) -> Mapping[str, str]:
    """Return the options of the configuration in a backup, without its snapshots. Raises HomelabError."""
    text = str(client.get(f"nodes/{node}/vzdump/extractconfig", volume=volid)).partition("\n[")[0]
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith("#"))


def require_its_own(container: Container, volid: str, config: Mapping[str, str]) -> None:
    """Raise InputError if a backup is of another container, which may have had the same vmid before."""
    name = config.get("hostname", "")
    if name != container.name or not container.lab_tags <= tags(config.get("tags")):
        raise InputError(
            f"Cannot restore {container.name} from {volid}: it is a backup of another container",
            f"It is of `{name}`, with the tags {config.get('tags') or 'none'}; {container.name} has "
            f"{', '.join(sorted(container.lab_tags))}.",
            f"`homelab backup --list {container.name}` shows its backups; the web interface can restore any backup.",
        )


def restore(
    client: Client, container: Container, node: str, volid: str, config: Mapping[str, str], progress: Progress
) -> Task:
    """Restore a container from a backup and return the task, after which Proxmox starts it. Raises HomelabError."""
    parameters = (
        {"vmid": container.vmid, "ostemplate": volid, "restore": True, "storage": container.storage, "start": True}
        | disks(container.storage, config)
        | ({"pool": container.shape.pool} if container.shape.pool else {})
    )
    with progress.step(container.name, f"restore from {volid.rpartition('/')[2]}") as update:
        task = tasks.begin(
            client, node, container.vmid, "vzrestore", partial(client.post, f"nodes/{node}/lxc", **parameters)
        )
        for warning in tasks.wait(
            client, task, f"restore {container.name}", _DEADLINE, lambda line: update(line[:_SHOWN])
        ):
            progress.note(container.name, warning)
    return task


def disks(storage: str, config: Mapping[str, str]) -> dict[str, Any]:
    """Return the disks' options, if there are several: otherwise Proxmox puts all of them on one storage."""
    mounts = {key: parse(value) for key, value in config.items() if re.fullmatch(r"mp\d+", key)}
    if not mounts or "rootfs" not in config:
        return {}
    root = parse(config["rootfs"])
    return {"rootfs": f"{storage}:{_gib(root['size'])}"} | {
        key: _new_volume(mount) for key, mount in mounts.items() if not mount[""].startswith("/")
    }


def left_out(config: Mapping[str, str]) -> Iterator[str]:
    """Yield one line per mount point that the restore does not bring back as it was."""
    for mount in (parse(value) for key, value in sorted(config.items()) if re.fullmatch(r"mp\d+", key)):
        if mount[""].startswith("/"):
            yield f"{mount.get('mp')} is {mount['']} of the node: only root@pam can mount it again, with `pct set`"
        elif mount.get("backup") != "1":
            yield f"{mount.get('mp')} is not in its backups: it is empty after the restore"


def _new_volume(mount: Mapping[str, str]) -> str:
    """Return the option of a mount point with a new volume of the same size on the same storage."""
    volume = f"{mount[''].partition(':')[0]}:{_gib(mount['size'])}"
    return write({**mount, "": volume, "size": None})


def _gib(size: str) -> str:
    found = re.fullmatch(r"([0-9.]+)([KMGT]?)", size)
    if found is None:
        raise HomelabError(
            "Cannot read the backup's configuration: invalid disk size",
            f"{size!r} is not a size.",
            "Restore it in the web interface, where you can enter the sizes.",
        )
    return f"{float(found[1]) * _UNITS[found[2]]:g}"


def maker(client: Client, node: str, vmid: int) -> Task | None:
    """Return our restore task that created the container or is creating it; None if it was created otherwise."""
    made = [task for task in tasks.of_container(client, node, vmid) if task.kind in _MAKING]
    ours = made and made[0].kind == "vzrestore" and made[0].creator == client.endpoint.token_id
    return made[0] if ours else None


def source(client: Client, task: Task) -> str | None:
    """Return the backup that a restore task uses, from its log."""
    found = re.search(r"recovering backed-up configuration from '(.+)'", "\n".join(tasks.log(client, task)))
    return found[1] if found else None
