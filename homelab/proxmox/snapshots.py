"""Snapshots of a container: whether its storage can, which there are, and making, removing and going back to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.tasks import Task, TaskFailed

# Types of storage on which Proxmox can take snapshots of a container's disk.
ABLE = ("btrfs", "lvmthin", "rbd", "zfspool")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
_NEWEST_ONLY = "zfspool"  # where a rollback would have to destroy the newer ones
_TAKEN_BY_PROXMOX = ("current", "vzdump")
_DEADLINE = 1800.0  # seconds that a task may take; a removal may have to merge a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A container's state at a moment; `made` in seconds since the epoch.

    `current`: what the container is now has grown out of this one. `unfinished`: it was cut off while it was made or
    removed (`prepare`, `delete`).
    """

    container: str
    name: str
    made: int
    description: str
    parent: str | None
    current: bool
    unfinished: str | None = None


def check_name(name: str) -> None:
    """Raise InputError if Proxmox would not take this name for a snapshot."""
    if not _NAME.fullmatch(name) or name in _TAKEN_BY_PROXMOX:
        raise InputError(
            f"{name!r} is no name for a snapshot",
            "It begins with a letter and has 2 to 40 letters, digits, `_` and `-`; "
            f"{' and '.join(_TAKEN_BY_PROXMOX)} are Proxmox's own.",
            "Take another: before_upgrade",
        )


def snapshots(kept: ManagedContainer) -> list[Snapshot]:
    """A container's snapshots, oldest first."""
    rows = kept.client.get(f"{kept.path}/snapshot")
    now = next((row.get("parent") for row in rows if row["name"] == "current"), None)
    found = [
        Snapshot(
            container=kept.name,
            name=str(row["name"]),
            made=int(row.get("snaptime") or 0),
            description=str(row.get("description", "")).strip(),
            parent=row.get("parent"),
            current=row["name"] == now,
            unfinished=row.get("snapstate"),
        )
        for row in rows
        if row["name"] != "current"
    ]
    return sorted(found, key=lambda each: (each.made, each.name))


def unsupported_disks(kept: ManagedContainer) -> list[str]:
    """What keeps Proxmox from taking snapshots of a container: its disks on storages that cannot; none if it can."""
    if int(kept.client.get(f"{kept.path}/feature", feature="snapshot").get("hasFeature") or 0):
        return []
    return list(_disks(kept)) or [f"a disk of {kept.name}"]


def unable(cannot: Mapping[str, Sequence[str]]) -> HomelabError:
    """The error for containers of which there can be no snapshots, each with its hindrances, and the way out."""
    names = ", ".join(cannot)
    return HomelabError(
        f"No snapshot can be taken of {names}",
        "Proxmox says `snapshot feature is not available`: "
        + "; ".join(each for them in cannot.values() for each in them)
        + ".",
        f"`homelab backup {' '.join(cannot)}` works on every storage. Or move the disks to a storage of the type "
        f"{', '.join(ABLE[:-1])} or {ABLE[-1]}: in the web interface, Resources > Volume Action > Move Storage.",
    )


def take(kept: ManagedContainer, name: str, description: str) -> None:
    """Take a snapshot. Raises HomelabError."""
    more = {"description": description} if description else {}
    with kept.progress.step(kept.name, f"take snapshot {name}"):
        try:
            kept.do(
                "vzsnapshot",
                f"taking snapshot {name}",
                _DEADLINE,
                partial(kept.client.post, f"{kept.path}/snapshot", snapname=name, **more),
            )
        except TaskFailed as error:
            if "snapshot feature is not available" in error.details:
                raise unable({kept.name: list(_disks(kept))}) from error
            raise


def remove(kept: ManagedContainer, snapshot: Snapshot) -> None:
    """Remove a snapshot; of one that was cut off, what is left. Raises HomelabError."""
    # Only `force` goes on where a part of it is not there any more.
    force = {"force": True} if snapshot.unfinished else {}
    with kept.progress.step(kept.name, f"remove snapshot {snapshot.name}"):
        kept.do(
            "vzdelsnapshot",
            f"removing snapshot {snapshot.name}",
            _DEADLINE,
            partial(kept.client.delete, f"{kept.path}/snapshot/{snapshot.name}", **force),
        )


def require_way_back(kept: ManagedContainer, found: Sequence[Snapshot], snapshot: Snapshot) -> None:
    """Raise HomelabError if newer snapshots are in the way, as they are on ZFS."""
    later = [each.name for each in found if each.made > snapshot.made]
    if later and _NEWEST_ONLY in _types(kept).values():
        raise _not_the_newest(kept, snapshot.name, later)


def go_back(kept: ManagedContainer, name: str) -> Task:
    """Go back to a snapshot; the task, after which Proxmox starts the container. Raises HomelabError.

    Proxmox stops it first if it runs, at once: what it has in its memory is lost anyway.
    """
    with kept.progress.step(kept.name, f"go back to snapshot {name}"):
        try:
            return kept.do(
                "vzrollback",
                f"going back to snapshot {name}",
                _DEADLINE,
                partial(kept.client.post, f"{kept.path}/snapshot/{name}/rollback", start=True),
            )
        except TaskFailed as error:
            if "is not most recent snapshot" in error.details:
                raise _not_the_newest(kept, name, []) from error
            raise


def _not_the_newest(kept: ManagedContainer, name: str, later: Sequence[str]) -> HomelabError:
    removals = [f"`homelab snapshot delete {each} --limit {kept.name}`" for each in reversed(later)]
    return HomelabError(
        f"{kept.name} cannot go back to {name} while there are newer snapshots",
        f"On its storage only the newest can be gone back to. Newer: {', '.join(later) or 'none that is listed'}.",
        f"If they may be lost: {', '.join(removals)}; then run the same command again."
        if later
        else "See the storage's snapshots on the node: Proxmox does not list them at the container.",
    )


def _disks(kept: ManagedContainer) -> Iterator[str]:
    """The disks that are on a storage that cannot; all of them if none seems to be the cause."""
    kinds = _types(kept)
    for key, volume in _volumes(kept).items():
        if volume.startswith("/"):
            yield f"{key} of {kept.name} is {volume} of the node itself"
        elif kinds[key] not in ABLE or set(kinds.values()) <= set(ABLE):
            kind = kinds[key] or "a type that this token may not see"
            yield f"{key} of {kept.name} is on {volume.partition(':')[0]}, of type {kind}"


def _types(kept: ManagedContainer) -> Mapping[str, str | None]:
    """The type of each disk's storage, as far as the token may see it."""
    types = {str(row["storage"]): str(row["type"]) for row in kept.client.get(f"nodes/{kept.found.node}/storage")}
    return {key: types.get(volume.partition(":")[0]) for key, volume in _volumes(kept).items()}


def _volumes(kept: ManagedContainer) -> Mapping[str, str]:
    return {
        key: str(value).partition(",")[0]
        for key, value in sorted(kept.found.config.items())
        if re.fullmatch(r"rootfs|mp\d+", key)
    }
