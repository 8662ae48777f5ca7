"""What will not be done, why, and the way out."""

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
    """What of `actions` on a container will not be done."""
    there = found.get(container.vmid)
    if there is None:
        yield from _refuse_create(container, found)
    elif there.lock == "create":
        yield leftover(there)
    elif there.status not in ("running", "stopped"):
        yield Refusal(
            f"{container.name} is {there.status}",
            f"Node {there.node} does not answer for it.",
            "See that the node is up, then run the same command again.",
        )
    elif not there.belongs_to(container) or there.shape is None:
        yield _foreign(container, there)
    else:
        if there.lock and actions:
            yield locked(container, there)
        yield from _refuse_changes(container, there.shape)
        yield from _refuse_template(container, there)


def _refuse_create(container: Container, found: Mapping[int, ObservedGuest]) -> Iterator[Refusal]:
    for other in found.values():
        if other.name == container.name and other.belongs_to(container):
            yield Refusal(
                f"{container.name} exists already, as {other.vmid}",
                f"The inventory says vmid {container.vmid}; a container's vmid cannot be changed.",
                f"Write `vmid: {other.vmid}` in the inventory, or destroy {other.vmid} first.",
            )


def _refuse_changes(container: Container, found: ContainerConfig) -> Iterator[Refusal]:
    for disk in disks(container, found):
        if disk.wanted < disk.found:
            which, key = ("disk", "disk") if disk.path == "/" else (f"disk at {disk.path}", "size")
            yield Refusal(
                f"{container.name}: its {which} cannot shrink",
                f"It has {disk.found} GiB, the inventory says {disk.wanted}, and Proxmox cannot make a disk smaller.",
                f"Write `{key}: {disk.found}` in the inventory; or destroy the container and make it anew.",
            )
    if (container.shape.features ^ found.features) - FOR_EVERYBODY:
        yield Refusal(
            f"{container.name}: its features cannot be changed by a token",
            f"It has {_list(found.features)}, wanted is {_list(container.shape.features)}; all but nesting are for "
            "root@pam alone.",
            f"On the node: `{set_features(container)}`; or write `features: [{', '.join(sorted(found.features))}]` in "
            "the inventory.",
        )
    if found.protection and any(change.field == "mounts" for change in settings(container, found)):
        yield Refusal(
            f"{container.name}: it is protected",
            "Proxmox adds no mount point to a protected container.",
            "Write `protection: false` and `homelab up` without the new mount point first; then both as you want them.",
        )
    for change in differences(container.shape, found):
        if change.field in _UNCHANGEABLE:
            yield Refusal(
                f"{container.name}: {change.field} cannot be changed",
                f"It is {change.found}, wanted is {change.wanted}, and Proxmox decides that at creation.",
                f"Back up what is in it, then `homelab destroy --limit {container.name}` and `homelab up`.",
            )


def _refuse_template(container: Container, there: ObservedGuest) -> Iterator[Refusal]:
    if there.template and not is_same_template(container.template, there.template):
        distribution = distribution_of(there.template)
        yield Refusal(
            f"{container.name}: its template cannot be changed",
            f"It was made from {there.template}, the inventory says {container.template}, and a template decides at "
            "creation only.",
            f"Write `template: {distribution.alias if distribution else there.template}` in the inventory; or back up "
            f"what is in it, then `homelab destroy --limit {container.name}` and `homelab up`.",
        )


def _foreign(container: Container, there: ObservedGuest) -> Refusal:
    kind = "container" if there.kind == "lxc" else "virtual machine"
    if there.sealed:
        return Refusal(
            f"{container.name}: vmid {there.vmid} is taken by a template",
            f"`{there.name}` on node {there.node} is a golden container or another template, which never runs.",
            f"Write another vmid for {container.name} in the inventory. Nothing has been touched.",
        )
    return Refusal(
        f"{container.name}: vmid {there.vmid} is taken by a {kind} that is not ours",
        f"`{there.name}` on node {there.node} does not carry the tags {', '.join(sorted(container.lab_tags))}.",
        f"Write another vmid for {container.name} in the inventory. Nothing has been touched.",
    )


def set_features(container: Container) -> str:
    """The command that root runs on the node to give a container its features."""
    given = ",".join(f if "=" in f else f"{f}=1" for f in sorted(container.shape.features))
    return shlex.join(["pct", "set", str(container.vmid), "--features", given])


def protected(container: Container, there: ObservedGuest) -> Refusal:
    """Somebody wants it never to be removed."""
    return Refusal(
        f"{container.name} is protected",
        f"{there.vmid} on node {there.node} has `protection` set, so Proxmox does not remove it.",
        f"If it is to go: write `protection: false` at {container.name} in the inventory, run `homelab up`, "
        "then destroy it.",
    )


def _list(features: Iterable[str]) -> str:
    return ", ".join(sorted(features)) or "none"


def locked(container: Container, there: ObservedGuest) -> Refusal:
    """Something else holds its lock."""
    return Refusal(
        f"{container.name} is locked ({there.lock})",
        f"Something else works on {there.vmid}, or was cut off.",
        f"Wait for its end. If nothing runs any more: `pct unlock {there.vmid}` on node {there.node}.",
    )


def leftover(there: ObservedGuest) -> Refusal:
    """A create that goes on elsewhere, or was cut off."""
    maker = f" It was begun by {there.creator}." if there.creator else ""
    if there.task:
        return Refusal(
            f"Somebody else is creating {there.vmid}",
            f"The task runs on node {there.node}.{maker}",
            "Wait for its end, or write another vmid in the inventory.",
        )
    return Refusal(
        f"{there.vmid} is half made",
        f"A create was cut off on node {there.node} and left its lock behind.{maker}",
        f"On the node: `pct unlock {there.vmid}`, then `pct destroy {there.vmid}`; then run the same command again.",
    )
