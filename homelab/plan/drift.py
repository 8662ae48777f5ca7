"""In what a container differs from the inventory, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from homelab.model import Container, Difference, Mount, Shape, differences

# What Proxmox takes into a running container only when it starts again.
COLD = frozenset({"features", "nameservers", "searchdomain"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that has another size than it should; sizes in GiB. The root disk's `path` is `/`."""

    path: str
    wanted: int
    found: int


def drift(container: Container, found: Shape) -> Iterator[Difference]:
    """Every difference that matters: neither a pool that the inventory does not name, nor a mount point more."""
    further = further_mounts(container, found)
    ours = replace(found, mounts=tuple(mount for mount in found.mounts if mount not in further))
    return (each for each in differences(container.shape, ours) if each.field != "pool" or each.wanted is not None)


def settings(container: Container, found: Shape) -> Iterator[Difference]:
    """The differences that a change of the container's configuration mends."""
    for each in drift(container, found):
        if each.field == "mounts":
            sized = replace(container.shape, mounts=tuple(_of_size(mount, found) for mount in container.shape.mounts))
            yield from (again for again in drift(replace(container, shape=sized), found) if again.field == "mounts")
        elif each.field not in ("disk", "pool"):
            yield each


def disks(container: Container, found: Shape) -> Iterator[Disk]:
    """The root disk and the mount points that are there in another size."""
    if container.shape.disk != found.disk:
        yield Disk("/", container.shape.disk, found.disk)
    for mount in container.shape.mounts:
        before = _of_size(mount, found).size
        if before != mount.size:
            yield Disk(mount.path, mount.size, before)


def further_mounts(container: Container, found: Shape) -> Sequence[Mount]:
    """Mount points that the inventory does not have. They hold data, so they stay."""
    wanted = {mount.path for mount in container.shape.mounts}
    return [mount for mount in found.mounts if mount.path not in wanted]


def _of_size(mount: Mount, found: Shape) -> Mount:
    """The mount with the size that it has there."""
    return replace(mount, size=next((there.size for there in found.mounts if there.path == mount.path), mount.size))
