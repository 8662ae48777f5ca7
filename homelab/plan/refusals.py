"""What will not be done, why, and the way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from homelab.model import Container, Shape, differences
from homelab.plan.actions import Action, Refusal
from homelab.plan.found import Found

_UNCHANGEABLE = frozenset({"unprivileged"})


def refuse_up(container: Container, found: Mapping[int, Found], actions: Sequence[Action]) -> Iterator[Refusal]:
    """What of `actions` on a container will not be done."""
    there = found.get(container.vmid)
    if there is None:
        yield from _refuse_create(container, found)
    elif there.lock == "create":
        yield leftover(there)
    elif not there.belongs_to(container) or there.shape is None:
        yield _foreign(container, there)
    else:
        if there.lock and actions:
            yield locked(container, there)
        if there.status not in ("running", "stopped"):
            yield Refusal(f"{container.name} is {there.status}", f"Node {there.node} does not answer for it.",
                          "See that the node is up, then run the same command again.")
        yield from _refuse_changes(container, there.shape)


def _refuse_create(container: Container, found: Mapping[int, Found]) -> Iterator[Refusal]:
    for other in found.values():
        if other.name == container.name and other.belongs_to(container):
            yield Refusal(
                f"{container.name} exists already, as {other.vmid}",
                f"The inventory says vmid {container.vmid}; a container's vmid cannot be changed.",
                f"Write `vmid: {other.vmid}` in the inventory, or destroy {other.vmid} first.")


def _refuse_changes(container: Container, found: Shape) -> Iterator[Refusal]:
    if container.shape.disk < found.disk:
        yield Refusal(
            f"{container.name}: its disk cannot shrink", f"It has {found.disk} GiB, the inventory says "
            f"{container.shape.disk}, and Proxmox cannot make a disk smaller.",
            f"Write `disk: {found.disk}` in the inventory; or destroy the container and make it anew.")
    for change in differences(container.shape, found):
        if change.field in _UNCHANGEABLE:
            yield Refusal(
                f"{container.name}: {change.field} cannot be changed",
                f"It is {change.found}, wanted is {change.wanted}, and Proxmox decides that at creation.",
                f"Back up what is in it, then `homelab destroy {container.name}` and `homelab up`.")


def _foreign(container: Container, there: Found) -> Refusal:
    kind = "container" if there.kind == "lxc" else "virtual machine"
    return Refusal(
        f"{container.name}: vmid {there.vmid} is taken by a {kind} that is not ours",
        f"`{there.name}` on node {there.node} does not carry the tags {', '.join(sorted(container.shape.tags))}.",
        f"Write another vmid for {container.name} in the inventory. Nothing has been touched.")


def locked(container: Container, there: Found) -> Refusal:
    """Something else holds its lock."""
    return Refusal(f"{container.name} is locked ({there.lock})",
                   f"Something else works on {there.vmid}, or was cut off.",
                   f"Wait for its end. If nothing runs any more: `pct unlock {there.vmid}` on node {there.node}.")


def leftover(there: Found) -> Refusal:
    """A create that goes on elsewhere, or was cut off."""
    maker = f" It was begun by {there.creator}." if there.creator else ""
    if there.task:
        return Refusal(f"Somebody else is creating {there.vmid}", f"The task runs on node {there.node}.{maker}",
                       "Wait for its end, or write another vmid in the inventory.")
    return Refusal(
        f"{there.vmid} is half made", f"A create was cut off on node {there.node} and left its lock behind.{maker}",
        f"On the node: `pct unlock {there.vmid}`, then `pct destroy {there.vmid}`; then run the same command again.")
