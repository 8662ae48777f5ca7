"""The changes that homelab refuses to make, with their cause and a way out."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from homelab.distributions import distribution_of
from homelab.model import Container, ContainerConfig, differences
from homelab.plan.actions import Action, Refusal
from homelab.plan.drift import disks, settings
from homelab.plan.observed_guest import ObservedGuest
from homelab.plan.template import is_same_template

_UNCHANGEABLE = frozenset({"unprivileged"})
FOR_EVERYBODY = frozenset({"nesting"})  # features that a token may set


def refuse_up(container: Container, found: Mapping[int, ObservedGuest], actions: Sequence[Action]) -> Iterator[Refusal]:
    """Yield the refusals for a container and its planned actions."""
    guest = found.get(container.vmid)
    if guest is None:
        yield from _refuse_create(container, found)
    elif guest.lock == "create":
        yield leftover(guest)
    elif guest.status not in ("running", "stopped"):
        yield Refusal(
            f"Cannot change {container.name}: it is {guest.status}",
            f"Node {guest.node} does not answer for it.",
            "Check that the node is up, then run the same command again.",
        )
    elif not guest.belongs_to(container) or guest.shape is None:
        yield _foreign(container, guest)
    else:
        if guest.lock and actions:
            yield locked(container, guest)
        yield from _refuse_changes(container, guest.shape)
        yield from _refuse_template(container, guest)


def _refuse_create(container: Container, found: Mapping[int, ObservedGuest]) -> Iterator[Refusal]:
    for other in found.values():
        if other.name == container.name and other.belongs_to(container):
            yield Refusal(
                f"Cannot create {container.name}: it already exists as {other.vmid}",
                f"The inventory has vmid {container.vmid}, and a container's vmid cannot be changed.",
                f"Write `vmid: {other.vmid}` in the inventory, or destroy {other.vmid} first.",
            )


def _refuse_changes(container: Container, found: ContainerConfig) -> Iterator[Refusal]:
    for disk in disks(container, found):
        if disk.wanted < disk.found:
            which, key = ("disk", "disk") if disk.path == "/" else (f"disk at {disk.path}", "size")
            yield Refusal(
                f"Cannot shrink the {which} of {container.name}: Proxmox can only grow disks",
                f"It has {disk.found} GiB, the inventory has {disk.wanted}.",
                f"Write `{key}: {disk.found}` in the inventory; or destroy the container and create it again.",
            )
    if (container.shape.features ^ found.features) - FOR_EVERYBODY:
        yield Refusal(
            f"Cannot change the features of {container.name}: only root@pam may",
            f"It has {_list(found.features)}, the inventory has {_list(container.shape.features)}; a token may only "
            "set nesting.",
            f"On the node: `{set_features(container)}`; or write `features: [{', '.join(sorted(found.features))}]` in "
            "the inventory.",
        )
    if found.protection and any(change.field == "mounts" for change in settings(container, found)):
        yield Refusal(
            f"Cannot add a mount point to {container.name}: it is protected",
            "Proxmox adds no mount point while `protection` is set.",
            "Write `protection: false`, leave the new mount point out, and run `homelab up`; then write both as you "
            "want them.",
        )
    for change in differences(container.shape, found):
        if change.field in _UNCHANGEABLE:
            yield Refusal(
                f"Cannot change {change.field} of {container.name}: Proxmox sets it only at creation",
                f"It is {change.found}, the inventory has {change.wanted}.",
                f"Back up its data, then `homelab destroy --limit {container.name}` and `homelab up`.",
            )


def _refuse_template(container: Container, guest: ObservedGuest) -> Iterator[Refusal]:
    if guest.template and not is_same_template(container.template, guest.template):
        distribution = distribution_of(guest.template)
        yield Refusal(
            f"Cannot change the template of {container.name}: Proxmox uses it only at creation",
            f"It was created from {guest.template}, the inventory has {container.template}.",
            f"Write `template: {distribution.alias if distribution else guest.template}` in the inventory; or back up "
            f"its data, then `homelab destroy --limit {container.name}` and `homelab up`.",
        )


def _foreign(container: Container, guest: ObservedGuest) -> Refusal:
    kind = "container" if guest.kind == "lxc" else "virtual machine"
    if guest.sealed:
        return Refusal(
            f"Cannot use vmid {guest.vmid} for {container.name}: it belongs to a template",
            f"`{guest.name}` on node {guest.node} is a golden container or another template, which never runs. It was "
            "not changed.",
            f"Write another vmid for {container.name} in the inventory.",
        )
    return Refusal(
        f"Cannot use vmid {guest.vmid} for {container.name}: it belongs to a {kind} that is not ours",
        f"`{guest.name}` on node {guest.node} does not have the tags {', '.join(sorted(container.lab_tags))}. "
        "It was not changed.",
        f"Write another vmid for {container.name} in the inventory.",
    )


def set_features(container: Container) -> str:
    """Return the command for root on the node that sets a container's features."""
    given = ",".join(f if "=" in f else f"{f}=1" for f in sorted(container.shape.features))
    return shlex.join(["pct", "set", str(container.vmid), "--features", given])


def protected(container: Container, guest: ObservedGuest) -> Refusal:
    """Return the refusal to destroy a protected container."""
    return Refusal(
        f"Cannot destroy {container.name}: it is protected",
        f"{guest.vmid} on node {guest.node} has `protection` set, so Proxmox does not remove it.",
        f"Write `protection: false` at {container.name} in the inventory, run `homelab up`, then destroy it.",
    )


def protected_orphan(guest: ObservedGuest) -> Refusal:
    """Return the refusal to destroy a protected container that is missing in the inventory."""
    return Refusal(
        f"Cannot destroy {guest.name}: it is protected",
        f"{guest.vmid} on node {guest.node} has `protection` set, so Proxmox does not remove it.",
        f"On the node: `pct set {guest.vmid} --protection 0`; then run the same command again.",
    )


def _list(features: Iterable[str]) -> str:
    return ", ".join(sorted(features)) or "none"


def locked(container: Container, guest: ObservedGuest) -> Refusal:
    """Return the refusal to change a locked container."""
    return Refusal(
        f"Cannot change {container.name}: it is locked ({guest.lock})",
        f"Another task works on {guest.vmid}, or was interrupted.",
        f"Wait for its end. If no task runs any more: `pct unlock {guest.vmid}` on node {guest.node}.",
    )


def leftover(guest: ObservedGuest) -> Refusal:
    """Return the refusal for a create that still runs elsewhere, or was interrupted."""
    creator = f" {guest.creator} started it." if guest.creator else ""
    if guest.task:
        return Refusal(
            f"Cannot create {guest.vmid}: another task is creating it",
            f"The task runs on node {guest.node}.{creator}",
            "Wait for its end, or write another vmid in the inventory.",
        )
    return Refusal(
        f"Cannot use {guest.vmid}: its creation was interrupted",
        f"The create on node {guest.node} ended without removing its lock.{creator}",
        f"On the node: `pct unlock {guest.vmid}`, then `pct destroy {guest.vmid}`; then run the same command again.",
    )
