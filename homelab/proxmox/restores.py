"""A container made anew from a backup: whose the backup is, and the restore itself."""

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
from homelab.proxmox.properties import parse, tags, write
from homelab.proxmox.tasks import Task

_DEADLINE = 6 * 3600.0  # seconds that a restore may take
_SHOWN = 70  # characters of a log line on the progress line
_MAKING = ("vzcreate", "vzclone", "vzrestore")
_UNITS = {"": 1 / 1024**3, "K": 1 / 1024**2, "M": 1 / 1024, "G": 1, "T": 1024}  # in GiB


def config_of(client: Client, node: str, volid: str) -> Mapping[str, str]:
    """The configuration in a backup: its options, without snapshots. Raises HomelabError."""
    text = str(client.get(f"nodes/{node}/vzdump/extractconfig", volume=volid)).partition("\n[")[0]
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith("#"))


def require_its_own(container: Container, volid: str, config: Mapping[str, str]) -> None:
    """Raise InputError if a backup is not of this container: a vmid may have been somebody else's before."""
    name = config.get("hostname", "")
    if name != container.name or not container.lab_tags <= tags(config.get("tags")):
        raise InputError(
            f"{volid} is not a backup of {container.name}",
            f"It is of `{name}`, with the tags {config.get('tags') or 'none'}; {container.name} carries "
            f"{', '.join(sorted(container.lab_tags))}.",
            f"`homelab backup --list {container.name}` shows its backups; the web interface restores any.",
        )


def restore(
    client: Client, container: Container, node: str, volid: str, config: Mapping[str, str], progress: Progress
) -> Task:
    """Make a container of a backup; the task, after which Proxmox starts it. Raises HomelabError."""
    parameters = (
        {"vmid": container.vmid, "ostemplate": volid, "restore": True, "storage": container.storage, "start": True}
        | disks(container.storage, config)
        | ({"pool": container.shape.pool} if container.shape.pool else {})
    )
    with progress.step(container.name, f"restore it from {volid.rpartition('/')[2]}") as update:
        task = tasks.begin(
            client, node, container.vmid, "vzrestore", partial(client.post, f"nodes/{node}/lxc", **parameters)
        )
        for warning in tasks.wait(
            client, task, f"{container.name}: restoring it", _DEADLINE, lambda line: update(line[:_SHOWN])
        ):
            progress.note(container.name, warning)
    return task


def disks(storage: str, config: Mapping[str, str]) -> dict[str, Any]:
    """The disks, if there are several: Proxmox would else put them all onto one storage."""
    mounts = {key: parse(value) for key, value in config.items() if re.fullmatch(r"mp\d+", key)}
    if not mounts or "rootfs" not in config:
        return {}
    root = parse(config["rootfs"])
    return {"rootfs": f"{storage}:{_gib(root['size'])}"} | {
        key: _anew(mount) for key, mount in mounts.items() if not mount[""].startswith("/")
    }


def left_out(config: Mapping[str, str]) -> Iterator[str]:
    """What is told of the mount points that do not come back as they were."""
    for mount in (parse(value) for key, value in sorted(config.items()) if re.fullmatch(r"mp\d+", key)):
        if mount[""].startswith("/"):
            yield f"{mount.get('mp')} is {mount['']} of the node, which only root@pam can mount again: `pct set`"
        elif mount.get("backup") != "1":
            yield f"{mount.get('mp')} is no part of its backups: it comes back empty"


def _anew(mount: Mapping[str, str]) -> str:
    """A mount point with a new volume of the same size on the same storage."""
    volume = f"{mount[''].partition(':')[0]}:{_gib(mount['size'])}"
    return write({**mount, "": volume, "size": None})


def _gib(size: str) -> str:
    found = re.fullmatch(r"([0-9.]+)([KMGT]?)", size)
    if found is None:
        raise HomelabError(
            "The backup's configuration cannot be read",
            f"{size!r} is no disk's size.",
            "Restore it in the web interface, where the sizes can be given.",
        )
    return f"{float(found[1]) * _UNITS[found[2]]:g}"


def maker(client: Client, node: str, vmid: int) -> Task | None:
    """The restore of ours that has made the container of that vmid, or is making it; None if something else has."""
    made = [task for task in tasks.of_container(client, node, vmid) if task.kind in _MAKING]
    ours = made and made[0].kind == "vzrestore" and made[0].creator == client.endpoint.token_id
    return made[0] if ours else None


def source(client: Client, task: Task) -> str | None:
    """The backup that a restore is made from, as its log says."""
    found = re.search(r"recovering backed-up configuration from '(.+)'", "\n".join(tasks.log(client, task)))
    return found[1] if found else None
