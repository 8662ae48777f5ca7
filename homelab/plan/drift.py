"""The differences between a container and the inventory, and the changes that resolve them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from homelab.model import DHCP, Container, ContainerConfig, Difference, Mount, NetworkCard, differences

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


def is_unnoticed(container: Container, change: Difference) -> bool:
    """Check for a change that a running container does not notice, although Proxmox shows it as done.

    A DHCP client starts and ends with the container, and asks again only when its lease ends.
    """
    if isinstance(change.wanted, NetworkCard):
        return _is_unnoticed_card(change.wanted, change.found)
    if change.field in ("address", "ip6"):
        return DHCP in (change.wanted, change.found)
    if change.field in ("bridge", "vlan"):
        return DHCP in (container.shape.address, container.shape.ip6)
    return change.field in _UNNOTICED


def _is_unnoticed_card(wanted: NetworkCard, found: object) -> bool:
    before = found if isinstance(found, NetworkCard) else None
    if before and wanted == replace(before, firewall=wanted.firewall, by_hand=()):
        return False
    with_dhcp = DHCP in (wanted.ip, wanted.ip6) or (before is not None and DHCP in (before.ip, before.ip6))
    return with_dhcp or (before is not None and wanted.mtu != before.mtu)


def needs_restart(container: Container, change: Difference) -> bool:
    """Check for a change that a running container has only after its next start."""
    return change.field in _PENDING or is_unnoticed(container, change)


def drift(container: Container, found: ContainerConfig) -> Iterator[Difference]:
    """Yield the differences, except those in settings that the inventory leaves alone.

    These are additional mount points and network cards, the pool, and IPv6.
    """
    further = further_mounts(container, found)
    ours = replace(
        found, mounts=tuple(mount for mount in found.mounts if mount not in further), networks=container.shape.networks
    )
    left = {"pool"} if container.shape.pool is None else set[str]()
    left |= {"ip6", "gw6"} if container.shape.ip6 is None else set()
    yield from (each for each in differences(container.shape, ours) if each.field not in left)
    for card in container.shape.networks:
        if (before := found.value(card.option)) != card:
            yield Difference(card.option, card, before)


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
