"""What differs between the inventory and what was found, as actions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from homelab.errors import InputError
from homelab.model import Container, Inventory
from homelab.model.firewall import Firewall, desired_firewall, goal
from homelab.plan.actions import (
    Action,
    Clone,
    Create,
    Destroy,
    MoveToPool,
    Note,
    Plan,
    RegenerateIdentity,
    Resize,
    Start,
    Stop,
    Update,
    UpdateFirewall,
)
from homelab.plan.drift import NEEDS_RESTART, disks, further_mounts, settings
from homelab.plan.observed_guest import ObservedGuest
from homelab.plan.refusals import FOR_EVERYBODY, leftover, locked, protected, refuse_up, set_features


def select_containers(inventory: Inventory, limit: Sequence[str]) -> Sequence[Container]:
    """The containers that `--limit` names, or all. Raises InputError for a name that is not in the inventory."""
    names = [container.name for container in inventory.containers]
    if unknown := [name for name in limit if name not in names]:
        raise InputError(
            f"No container is called {', '.join(unknown)}",
            f"{inventory.path} has {', '.join(names)}.",
            "Name one of these.",
        )
    return [container for container in inventory.containers if not limit or container.name in limit]


def plan_up(inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str] = ()) -> Plan:
    """What makes the containers exist, match and run. Raises InputError for an unknown name."""
    containers = select_containers(inventory, limit)
    work = {c.name: tuple(_up(c, found.get(c.vmid), desired_firewall(inventory, c))) for c in containers}
    refusals = tuple(refusal for c in containers for refusal in refuse_up(c, found, work[c.name]))
    return Plan(
        () if refusals else tuple(action for actions in work.values() for action in actions),
        refusals,
        tuple(note for c in containers for note in _notes(c, found.get(c.vmid))),
    )


def plan_destroy(inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str] = ()) -> Plan:
    """What removes the containers that are ours; those that are not are left alone and not even refused."""
    present = [
        (container, found[container.vmid])
        for container in select_containers(inventory, limit)
        if container.vmid in found
    ]
    ours = [(container, there) for container, there in present if there.belongs_to(container)]
    refusals = [leftover(there) for _, there in present if there.lock == "create"]
    refusals += [locked(container, there) for container, there in ours if there.lock not in (None, "create")]
    refusals += [protected(container, there) for container, there in ours if there.shape and there.shape.protection]
    return Plan(tuple(Destroy(container, there) for container, there in ours), tuple(refusals))


def _up(container: Container, found: ObservedGuest | None, firewall: Firewall) -> Iterator[Action]:
    if found is None or found.shape is None:
        yield Clone(container) if container.clone_from else Create(container)
        if firewall.on:
            yield UpdateFirewall(container, None, firewall)
        return
    # Before the network card's own switch: this is what the next run looks for while something is left to do.
    if goal(firewall, found.firewall) != found.firewall:
        yield UpdateFirewall(container, found, goal(firewall, found.firewall))
    # Before the settings: what is said of a mount point there says its size as well.
    for disk in disks(container, found.shape):
        if disk.wanted > disk.found:
            yield Resize(container, found, disk)
    changes = tuple(settings(container, found.shape))
    if changes:
        yield Update(container, found, changes)
    if container.shape.pool not in (None, found.shape.pool):
        yield MoveToPool(container, found, str(container.shape.pool))
    owed = tuple(change.field for change in changes if change.field in NEEDS_RESTART) or found.pending
    if found.running and owed:
        yield Stop(container, found, owed)
    if not found.running or owed:
        yield Start(container, found)
    if found.unfinished:
        yield RegenerateIdentity(container, found)


def _notes(container: Container, found: ObservedGuest | None) -> Iterator[Note]:
    if found is None or found.shape is None:
        if container.shape.features - FOR_EVERYBODY:
            yield Note(
                container.name,
                "only root@pam may give it all of its features: once it is there, run "
                f"`{set_features(container)}` on the node",
            )
        return
    if container.node not in (None, found.node):
        yield Note(container.name, f"it is on node {found.node}, the inventory says {container.node}: it is left there")
    by_hand = [*(f"the mount point {mount.path}" for mount in further_mounts(container, found.shape)), *found.by_hand]
    if by_hand:
        yield Note(container.name, f"it also has {', '.join(by_hand)}, of which the inventory says nothing: left alone")
