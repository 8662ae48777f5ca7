"""Compare the inventory with the observed guests and plan the actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from homelab.errors import InputError
from homelab.model import Container, ContainerConfig, Difference, Inventory, lab_tags
from homelab.model.firewall import Firewall, desired_firewall, goal
from homelab.plan import root_options
from homelab.plan.actions import (
    Action,
    Clone,
    Create,
    Destroy,
    MoveToPool,
    Note,
    Plan,
    Refusal,
    RegenerateIdentity,
    Resize,
    Start,
    Stop,
    Update,
    UpdateFirewall,
)
from homelab.plan.drift import disks, further_mounts, is_unnoticed, settings
from homelab.plan.leases import refused_lease, with_leases
from homelab.plan.observed_guest import ObservedGuest
from homelab.plan.refusals import FOR_EVERYBODY, leftover, locked, protected, protected_orphan, refuse_up, set_features


def select_containers(inventory: Inventory, limit: Sequence[str]) -> Sequence[Container]:
    """Return the containers that `--limit` names, or all. Raises InputError for a name missing in the inventory."""
    names = [container.name for container in inventory.containers]
    if unknown := [name for name in limit if name not in names]:
        raise InputError(
            f"Cannot find container {', '.join(unknown)}: it is not in the inventory",
            f"{inventory.path} has {', '.join(names)}.",
            "Name one of these.",
        )
    return [container for container in inventory.containers if not limit or container.name in limit]


def plan_up(inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str] = ()) -> Plan:
    """Plan the actions after which the containers exist, match the inventory and run. Raises InputError.

    A refused container has no actions; those of the others are for display: `refuse_unsafe` stops their execution.
    """
    inventory = with_leases(inventory, found)
    containers = select_containers(inventory, limit)
    work = {c.name: tuple(_up(c, found.get(c.vmid), desired_firewall(inventory, c))) for c in containers}
    refused = {c.name: tuple(_refusals(inventory, c, found, work[c.name])) for c in containers}
    return Plan(
        tuple(action for name, actions in work.items() if not refused[name] for action in actions),
        tuple(refusal for refusals in refused.values() for refusal in refusals),
        (
            *(note for c in containers for note in _notes(c, found.get(c.vmid))),
            *_awaited_addresses(inventory, containers),
            *(() if limit else orphan_notes(inventory, found)),
        ),
    )


def _refusals(
    inventory: Inventory, container: Container, found: Mapping[int, ObservedGuest], actions: Sequence[Action]
) -> Iterator[Refusal]:
    yield from refuse_up(container, found, actions)
    if refusal := refused_lease(inventory, container, found):
        yield refusal


def plan_destroy(inventory: Inventory, found: Mapping[int, ObservedGuest], limit: Sequence[str] = ()) -> Plan:
    """Plan the removal of our containers. Guests that are not ours are skipped without a refusal."""
    present = [
        (container, found[container.vmid])
        for container in select_containers(inventory, limit)
        if container.vmid in found
    ]
    ours = [(container, guest) for container, guest in present if guest.belongs_to(container)]
    refusals = [leftover(guest) for _, guest in present if guest.lock == "create"]
    refusals += [locked(container, guest) for container, guest in ours if guest.lock not in (None, "create")]
    refusals += [protected(container, guest) for container, guest in ours if guest.shape and guest.shape.protection]
    return Plan(tuple(Destroy(container, guest) for container, guest in ours), tuple(refusals))


def orphan_notes(inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Iterator[Note]:
    """Yield a note for each guest with this lab's tags that is missing in the inventory, except golden containers."""
    for guest in orphans(inventory, found):
        command = (
            f"`homelab destroy --orphans --limit {guest.name}`"
            if guest.kind == "lxc"
            else f"on the node: `qm destroy {guest.vmid} --purge`"
        )
        yield Note(
            guest.name,
            f"{guest.vmid} on node {guest.node} has this lab's tags and is not in the inventory: left unchanged. "
            f"To remove it with its data: {command}",
        )


def orphans(inventory: Inventory, found: Mapping[int, ObservedGuest]) -> Sequence[ObservedGuest]:
    """Return the guests with this lab's tags that are missing in the inventory, except golden containers."""
    vmids = {container.vmid for container in inventory.containers}
    return [guest for guest in found.values() if guest.vmid not in vmids and not guest.sealed]


def plan_orphans(
    inventory: Inventory,
    found: Mapping[int, ObservedGuest],
    limit: Sequence[str],
    read: Callable[[ObservedGuest], ObservedGuest],
) -> Plan:
    """Plan the removal of the lab's containers that are missing in the inventory; `limit` names some of them.

    `read` adds a guest's configuration. Raises InputError for a name that no such container has.
    """
    candidates = [guest for guest in orphans(inventory, found) if guest.kind == "lxc"]
    if unknown := sorted(set(limit) - {guest.name for guest in candidates}):
        raise InputError(
            f"Cannot find container {', '.join(unknown)}: no container with this lab's tags has that name",
            f"Missing in the inventory are: {', '.join(guest.name for guest in candidates) or 'none'}.",
            "Without `--orphans`, `--limit` names containers of the inventory.",
        )
    chosen = [read(guest) for guest in candidates if not limit or guest.name in limit]
    ours = lab_tags(inventory.lab)  # again, as the cluster's list is up to 10 s old
    removed = [
        (_as_container(inventory, guest, guest.shape), guest)
        for guest in chosen
        if guest.shape and not guest.sealed and ours <= guest.shape.tags
    ]
    refusals = [locked(container, guest) for container, guest in removed if guest.lock]
    refusals += [protected_orphan(guest) for _, guest in removed if guest.shape and guest.shape.protection]
    return Plan(tuple(Destroy(container, guest) for container, guest in removed), tuple(refusals))


def _as_container(inventory: Inventory, guest: ObservedGuest, shape: ContainerConfig) -> Container:
    return Container(
        name=guest.name,
        vmid=guest.vmid,
        node=guest.node,
        template="",
        template_storage="",
        storage="",
        shape=shape,
        services={},
        lab_tags=lab_tags(inventory.lab),
    )


def _up(container: Container, found: ObservedGuest | None, firewall: Firewall) -> Iterator[Action]:
    if found is None or found.shape is None:
        yield Clone(container) if container.clone_from else Create(container)
        if firewall.on:
            yield UpdateFirewall(container, None, firewall)
        return
    # Before the network card's `firewall` flag: after a kill, the next run still finds the flag to set.
    if goal(firewall, found.firewall) != found.firewall:
        yield UpdateFirewall(container, found, goal(firewall, found.firewall))
    # Before the settings: an update of a mount point's option includes its size.
    for disk in disks(container, found.shape):
        if disk.wanted > disk.found and _has_disk(found, disk.path):
            yield Resize(container, found, disk)
    changes = tuple(settings(container, found.shape))
    due = tuple(_due_restarts(container, found, changes))
    # Proxmox shows these in the configuration immediately, so a run after a kill could not detect the missing restart.
    # Therefore the container is stopped before the update.
    stop_first = any(is_unnoticed(container, change) and change.field in due for change in changes)
    if stop_first:
        yield Stop(container, found, due)
    if changes:
        yield Update(container, found, changes)
    if container.shape.pool not in (None, found.shape.pool):
        yield MoveToPool(container, found, str(container.shape.pool))
    if due and not stop_first:
        yield Stop(container, found, due)
    if due or not found.running:
        yield Start(container, found)
    if found.unfinished:
        yield RegenerateIdentity(container, found)


def _has_disk(found: ObservedGuest, path: str) -> bool:
    """Return False for a mount point that the next start makes: it has no volume to grow yet."""
    return path == "/" or found.live is None or path in {mount.path for mount in found.live.mounts}


def _due_restarts(container: Container, found: ObservedGuest, changes: Sequence[Difference]) -> Iterator[str]:
    """Yield the fields that need a restart: changed ones, and wanted ones that are still pending."""
    if not found.running:
        return
    yield from sorted(Update(container, found, tuple(changes)).after_restart)
    changed = {change.field for change in changes}
    yield from (each.field for each in settings(container, found.live or container.shape) if each.field not in changed)


def _notes(container: Container, found: ObservedGuest | None) -> Iterator[Note]:
    if found is None or found.shape is None:
        if container.shape.features - FOR_EVERYBODY:
            yield Note(
                container.name,
                "only root@pam may set all of its features: after its creation, run "
                f"`{set_features(container)}` on the node",
            )
        yield from _root_options(container, {})
        return
    yield from _root_options(container, found.config)
    if container.node not in (None, found.node):
        yield Note(container.name, f"it is on node {found.node}, the inventory has {container.node}: it is not moved")
    ipv6 = [("ip6", found.shape.ip6), ("gw6", found.shape.gw6)] if container.shape.ip6 is None else []
    expressed = root_options.expressed(container, found.config) | {card.option for card in container.shape.networks}
    by_hand = [
        *(f"the mount point {mount.path}" for mount in further_mounts(container, found.shape)),
        *(f"net0 {name}={value}" for name, value in ipv6 if value),
        *(each for each in found.by_hand if each not in expressed),
    ]
    if by_hand:
        yield Note(container.name, f"it also has {', '.join(by_hand)}, missing in the inventory: left unchanged")


def _awaited_addresses(inventory: Inventory, containers: Sequence[Container]) -> Iterator[Note]:
    if not any(container.shape.firewall for container in inventory.containers):
        return
    for container in containers:
        if container.known_address is None:
            yield Note(
                container.name,
                "DHCP has not given its address yet: then `homelab up` also sets the firewall rules with that address, "
                "and the IP filter",
            )


def _root_options(container: Container, config: Mapping[str, Any]) -> Iterator[Note]:
    if command := root_options.missing_command(container, config):
        yield Note(
            container.name,
            f"only root@pam may add its devices and bind mounts: run `{command}` on the node, then restart it",
        )
