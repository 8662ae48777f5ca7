"""In what a container differs from the inventory, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from homelab.model import Container, ContainerConfig, Difference, Mount, differences

# What Proxmox takes into a running container only when it starts again.
NEEDS_RESTART = frozenset({"features", "nameservers", "searchdomain", "backup"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that has another size than it should; sizes in GiB. The root disk's `path` is `/`."""

    path: str
    wanted: int
    found: int


def drift(container: Container, found: ContainerConfig) -> Iterator[Difference]:
    """Every difference that matters: neither a pool that the inventory does not name, nor a mount point more."""
    further = further_mounts(container, found)
    ours = replace(found, mounts=tuple(mount for mount in found.mounts if mount not in further))
    return (each for each in differences(container.shape, ours) if each.field != "pool" or each.wanted is not None)


def settings(container: Container, found: ContainerConfig) -> Iterator[Difference]:
    """The differences that a change of the container's configuration mends."""
    for each in drift(container, found):
        if each.field == "mounts":
            yield from _mounts(container.shape, found)
        elif each.field not in ("disk", "pool"):
            yield each


def _mounts(wanted: ContainerConfig, found: ContainerConfig) -> Iterator[Difference]:
    """New mount points, which are made at once, and those whose part in backups changes, which is not."""
    there = {mount.path: mount for mount in found.mounts}
    if new := tuple(mount for mount in wanted.mounts if mount.path not in there):
        yield Difference("mounts", new, ())
    ours = [mount for mount in wanted.mounts if mount.path in there]
    if others := tuple(mount for mount in ours if mount.backup != there[mount.path].backup):
        yield Difference("backup", others, tuple(there[mount.path] for mount in others))


def disks(container: Container, found: ContainerConfig) -> Iterator[Disk]:
    """The root disk and the mount points that are there in another size."""
    if container.shape.disk != found.disk:
        yield Disk("/", container.shape.disk, found.disk)
    before = {mount.path: mount.size for mount in found.mounts}
    for mount in container.shape.mounts:
        if mount.size != before.get(mount.path, mount.size):
            yield Disk(mount.path, mount.size, before[mount.path])


def further_mounts(container: Container, found: ContainerConfig) -> Sequence[Mount]:
    """Mount points that the inventory does not have. They hold data, so they stay."""
    wanted = {mount.path for mount in container.shape.mounts}
    return [mount for mount in found.mounts if mount.path not in wanted]
