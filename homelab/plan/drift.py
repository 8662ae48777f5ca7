"""The differences between a container and the inventory, and the changes that resolve them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from homelab.model import DHCP, Container, ContainerConfig, Difference, Mount, differences

# Fields that Proxmox changes in a running container's configuration, but not in the container, with nothing pending.
_UNNOTICED = frozenset({"hostname", "mtu"})
# Fields that are pending until a running container's next start.
_PENDING = frozenset({"features", "nameservers", "searchdomain", "backup"})


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk with a wrong size; sizes in GiB. The root disk's `path` is `/`."""

    path: str
    wanted: int
    found: int


def is_unnoticed(change: Difference) -> bool:
    """Check for a change that a running container does not notice, although Proxmox shows it as done.

    A DHCP client starts and ends with the container.
    """
    return change.field in _UNNOTICED or (change.field == "address" and DHCP in (change.wanted, change.found))


def needs_restart(change: Difference) -> bool:
    """Check for a change that a running container has only after its next start."""
    return change.field in _PENDING or is_unnoticed(change)


def drift(container: Container, found: ContainerConfig) -> Iterator[Difference]:
    """Yield the relevant differences: all but additional mount points, and a pool or IPv6 that the inventory leaves."""
    further = further_mounts(container, found)
    ours = replace(found, mounts=tuple(mount for mount in found.mounts if mount not in further))
    left = {"pool"} if container.shape.pool is None else set[str]()
    left |= {"ip6", "gw6"} if container.shape.ip6 is None else set()
    return (each for each in differences(container.shape, ours) if each.field not in left)


def settings(container: Container, found: ContainerConfig) -> Iterator[Difference]:
    """Yield the differences that an update of the container's configuration resolves."""
    for each in drift(container, found):
        if each.field == "mounts":
            yield from _mounts(container.shape, found)
        elif each.field not in ("disk", "pool"):
            yield each


def _mounts(wanted: ContainerConfig, found: ContainerConfig) -> Iterator[Difference]:
    """Yield new mount points, which apply immediately, and changed `backup` flags, which need a restart."""
    existing = {mount.path: mount for mount in found.mounts}
    if new := tuple(mount for mount in wanted.mounts if mount.path not in existing):
        yield Difference("mounts", new, ())
    ours = [mount for mount in wanted.mounts if mount.path in existing]
    if changed := tuple(mount for mount in ours if mount.backup != existing[mount.path].backup):
        yield Difference("backup", changed, tuple(existing[mount.path] for mount in changed))


def disks(container: Container, found: ContainerConfig) -> Iterator[Disk]:
    """Yield the root disk and the existing mount points that have another size than the inventory."""
    if container.shape.disk != found.disk:
        yield Disk("/", container.shape.disk, found.disk)
    before = {mount.path: mount.size for mount in found.mounts}
    for mount in container.shape.mounts:
        if mount.size != before.get(mount.path, mount.size):
            yield Disk(mount.path, mount.size, before[mount.path])


def further_mounts(container: Container, found: ContainerConfig) -> Sequence[Mount]:
    """Return the mount points that the inventory does not have. They contain data, so they are kept."""
    wanted = {mount.path for mount in container.shape.mounts}
    return [mount for mount in found.mounts if mount.path not in wanted]
