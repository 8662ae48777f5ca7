"""Snapshots of a container: check that its storage supports them, list, take, remove and roll back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from homelab.errors import HomelabError, InputError
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.tasks import Task, TaskFailed

# Storage types on which Proxmox supports snapshots of containers.
ABLE = ("btrfs", "lvmthin", "rbd", "zfspool")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
_NEWEST_ONLY = "zfspool"  # the type on which only the newest snapshot can be rolled back to
_TAKEN_BY_PROXMOX = ("current", "vzdump")
_DEADLINE = 1800.0  # timeout of a task in seconds; a removal may have to merge a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A container's state at a moment; `made` in seconds since the epoch.

    `current`: it is the parent of the container's current state. `unfinished`: its creation (`prepare`) or removal
    (`delete`) was interrupted.
    """

    container: str
    name: str
    made: int
    description: str
    parent: str | None
    current: bool
    unfinished: str | None = None


def check_name(name: str) -> None:
    """Raise InputError if Proxmox does not accept a snapshot's name."""
    if not _NAME.fullmatch(name) or name in _TAKEN_BY_PROXMOX:
        raise InputError(
            f"Cannot use the snapshot name {name!r}: Proxmox does not accept it",
            "A name begins with a letter and has 2 to 40 letters, digits, `_` and `-`; "
            f"{' and '.join(_TAKEN_BY_PROXMOX)} are reserved.",
            "Use another name, such as before_upgrade.",
        )


def snapshots(kept: ManagedContainer) -> list[Snapshot]:
    """Return a container's snapshots, oldest first."""
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
    """Return one sentence per disk on a storage without snapshot support; empty if Proxmox can take snapshots."""
    if int(kept.client.get(f"{kept.path}/feature", feature="snapshot").get("hasFeature") or 0):
        return []
    return list(_disks(kept)) or [f"a disk of {kept.name}"]


def unable(cannot: Mapping[str, Sequence[str]]) -> HomelabError:
    """Return the error for containers without snapshot support; `cannot` has their unsupported disks."""
    names = ", ".join(cannot)
    return HomelabError(
        f"Cannot take a snapshot of {names}: the storage does not support it",
        "; ".join(disk for disks in cannot.values() for disk in disks) + ".",
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
                f"take snapshot {name} of {kept.name}",
                _DEADLINE,
                partial(kept.client.post, f"{kept.path}/snapshot", snapname=name, **more),
            )
        except TaskFailed as error:
            if "snapshot feature is not available" in error.details:
                raise unable({kept.name: list(_disks(kept))}) from error
            raise


def remove(kept: ManagedContainer, snapshot: Snapshot) -> None:
    """Remove a snapshot, or the rest of an unfinished one. Raises HomelabError."""
    # Without `force`, Proxmox stops at the first missing part.
    force = {"force": True} if snapshot.unfinished else {}
    with kept.progress.step(kept.name, f"remove snapshot {snapshot.name}"):
        kept.do(
            "vzdelsnapshot",
            f"remove snapshot {snapshot.name} of {kept.name}",
            _DEADLINE,
            partial(kept.client.delete, f"{kept.path}/snapshot/{snapshot.name}", **force),
        )


def require_way_back(kept: ManagedContainer, found: Sequence[Snapshot], snapshot: Snapshot) -> None:
    """Raise HomelabError if newer snapshots prevent a rollback, as on ZFS."""
    later = [each.name for each in found if each.made > snapshot.made]
    if later and _NEWEST_ONLY in _types(kept).values():
        raise _not_the_newest(kept, snapshot.name, later)


def go_back(kept: ManagedContainer, name: str) -> Task:
    """Roll back to a snapshot and return the task, after which Proxmox starts the container. Raises HomelabError.

    Proxmox kills a running container first, because its memory is lost anyway.
    """
    with kept.progress.step(kept.name, f"roll back to snapshot {name}"):
        try:
            return kept.do(
                "vzrollback",
                f"roll {kept.name} back to snapshot {name}",
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
        f"Cannot roll {kept.name} back to {name}: there are newer snapshots",
        f"Its storage can only roll back to the newest. Newer: {', '.join(later) or 'none that is listed'}.",
        f"To delete the newer ones: {', '.join(removals)}; then run the same command again."
        if later
        else "Check the storage's snapshots on the node: Proxmox does not list them for the container.",
    )


def _disks(kept: ManagedContainer) -> Iterator[str]:
    """Describe each disk on a storage without snapshot support; all disks if no cause is visible."""
    kinds = _types(kept)
    for key, volume in _volumes(kept).items():
        if volume.startswith("/"):
            yield f"{key} of {kept.name} is {volume} of the node itself"
        elif kinds[key] not in ABLE or set(kinds.values()) <= set(ABLE):
            kind = kinds[key] or "a type that this token cannot see"
            yield f"{key} of {kept.name} is on {volume.partition(':')[0]}, of type {kind}"


def _types(kept: ManagedContainer) -> Mapping[str, str | None]:
    """Return the type of each disk's storage, or None if the token cannot see it."""
    types = {str(row["storage"]): str(row["type"]) for row in kept.client.get(f"nodes/{kept.found.node}/storage")}
    return {key: types.get(volume.partition(":")[0]) for key, volume in _volumes(kept).items()}


def _volumes(kept: ManagedContainer) -> Mapping[str, str]:
    return {
        key: str(value).partition(",")[0]
        for key, value in sorted(kept.found.config.items())
        if re.fullmatch(r"rootfs|mp\d+", key)
    }
