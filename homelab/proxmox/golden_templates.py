"""Golden containers on Proxmox: find them by their descriptions, create, clone and remove them."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from itertools import chain
from time import monotonic, sleep
from typing import Any

from homelab.errors import HomelabError
from homelab.model import Container, Inventory, lab_tags
from homelab.plan import Clone, Plan, golden_container
from homelab.plan.golden_container import TAG, GoldenContainer
from homelab.plan.template import is_same_template
from homelab.proxmox import tasks
from homelab.proxmox.client import Client
from homelab.proxmox.errors import REFUSED, ProxmoxError, Unanswered
from homelab.proxmox.privileges import acl_line, grant, privileges_on, role_line
from homelab.proxmox.properties import shape_of, tags
from homelab.proxmox.vmids import is_free
from homelab.roles import CONTAINERS

# Timeouts of tasks in seconds: a full clone copies all disks.
_CLONE, _TEMPLATE, _DESTROY, _OTHERS = 3600.0, 600.0, 600.0, 3600.0
_RANGE = 10_000  # number of vmids that are tried
_APPEARS = 10.0  # seconds within which a started task has to be listed
_TRIES = 3  # attempts to send a change when the answers are lost
_DROPPED = ("startup", "protection", "hookscript")  # options that a golden container does not inherit from its source


def goldens(client: Client, inventory: Inventory, of: str | None = None) -> list[GoldenContainer]:
    """Return the lab's golden containers, or those of one container, finished or not, oldest first.

    Wait for the running tasks of locked ones.
    """
    ours, taken = lab_tags(inventory.lab), {container.vmid for container in inventory.containers}
    rows = [
        row
        for row in client.get("cluster/resources", type="vm")
        if row["type"] == "lxc" and int(row["vmid"]) not in taken and ours <= tags(row.get("tags"))
    ]
    found = (_settled(client, str(row["node"]), int(row["vmid"])) for row in rows)
    return sorted((each for each in found if each and of in (None, each.of)), key=lambda each: each.made)


def _settled(client: Client, node: str, vmid: int) -> GoldenContainer | None:
    """Read a golden container; if it is locked, wait for its running tasks first."""
    found = _read(client, node, vmid)
    if found and found.lock:
        tasks.settle(client, node, vmid, _OTHERS)
        found = _read(client, node, vmid)
    return found


def _read(client: Client, node: str, vmid: int) -> GoldenContainer | None:
    """Read a container; None if it is not golden or was removed."""
    try:
        config = client.get(f"nodes/{node}/lxc/{vmid}/config")
    except ProxmoxError as error:
        if error.status == REFUSED and is_free(client, vmid):
            return None
        raise
    record = golden_container.read(str(config.get("description", "")))
    return record and replace(
        record,
        vmid=vmid,
        node=node,
        disk=shape_of(config, vmid).disk,
        lock=config.get("lock"),
        whole=bool(config.get("template")),
    )


def with_goldens(client: Client, inventory: Inventory, plan: Plan) -> Plan:
    """Return the plan with the golden container of each clone. Raises HomelabError if there is no suitable one."""
    if not any(isinstance(action, Clone) for action in plan.actions):
        return plan
    known = goldens(client, inventory)
    return replace(
        plan,
        actions=tuple(
            replace(action, golden=_choice(action.container, known)) if isinstance(action, Clone) else action
            for action in plan.actions
        ),
    )


def _choice(container: Container, known: list[GoldenContainer]) -> GoldenContainer:
    name, of = container.name, str(container.clone_from)
    theirs = [each for each in known if each.of == of and each.whole]
    if not theirs:
        others = ", ".join(sorted({each.of for each in known if each.whole}))
        raise HomelabError(
            f"Cannot clone {name}: there is no golden container of {of}",
            f"This lab has golden containers of {others}." if others else "This lab has no golden containers.",
            f"`homelab golden create {of}` makes one while {of} exists; or remove `clone_from: {of}`.",
        )
    newest = theirs[-1]
    if not is_same_template(container.template, newest.template):
        raise HomelabError(
            f"Cannot clone {name}: the golden container of {of} has another template",
            f"It is {newest.template}, the inventory has {container.template}, and the supported "
            "services depend on it.",
            f"Write the `template` of {of} at {name}, or run `homelab golden create {of}` again.",
        )
    if container.shape.disk < newest.disk:
        raise HomelabError(
            f"Cannot clone {name}: its disk is smaller than that of its golden container",
            f"{newest.vmid} has {newest.disk} GiB, the inventory has {container.shape.disk}, and "
            "Proxmox can only grow disks.",
            f"Write `disk: {newest.disk}` or more at {name}.",
        )
    return newest


def free_vmid(client: Client, inventory: Inventory, source: int) -> int:
    """Return a free vmid on which this token may create a clone: the last of the inventory's range, or the next one.

    The vmid is not reserved. Raises HomelabError, with the commands that grant missing privileges.
    """
    permissions, token = client.get("access/permissions"), inventory.endpoint.token_id
    if "VM.Clone" not in privileges_on(permissions, f"/vms/{source}"):
        raise HomelabError(
            "Cannot clone: the token lacks a privilege",
            f"It has no VM.Clone on /vms/{source}.",
            grant(f"(/vms/{source}, VM.Clone)", token),
        )
    first = int(client.get("cluster/nextid"))
    named = sorted(int(path[5:]) for path in permissions if re.fullmatch(r"/vms/\d+", path))
    candidates = reversed(inventory.vmid_range) if inventory.vmid_range else chain(range(first, first + _RANGE), named)
    taken = {container.vmid for container in inventory.containers}
    # Proxmox creates a clone in its source's pool, so VM.Allocate on the pool is sufficient.
    pool = next((c.shape.pool for c in inventory.containers if c.vmid == source and c.shape.pool), None)
    anywhere = pool is not None and "VM.Allocate" in privileges_on(permissions, f"/pool/{pool}")
    for vmid in candidates:
        allowed = anywhere or "VM.Allocate" in privileges_on(permissions, f"/vms/{vmid}")
        if vmid not in taken and allowed and is_free(client, vmid):
            return vmid
    raise HomelabError(
        "Cannot create a golden container: no free vmid that this token may use",
        "Golden containers need two vmids of their own: a new one is created before the old one is removed.",
        f"On the node: `{role_line(CONTAINERS, CONTAINERS.all_privileges)}`, "
        f"then `{acl_line('/vms', [CONTAINERS], token)}`; or "
        "write a `pool` in the inventory, and run the commands that `homelab doctor` prints.",
    )


def clone(client: Client, node: str, source: int, vmid: int, goal: str, **parameters: Any) -> list[str]:
    """Create a full clone of a stopped container and return the warnings. Raises HomelabError.

    `goal` names the action in errors, such as `copy NAME`. Proxmox locks the source, so wait for an earlier clone.
    """
    tasks.settle(client, node, source, _OTHERS)
    task = tasks.begin(
        client,
        node,
        source,
        "vzclone",
        partial(client.post, f"nodes/{node}/lxc/{source}/clone", newid=vmid, full=True, **parameters),
    )
    return tasks.wait(client, task, goal, _CLONE)


def mark(client: Client, lab: str, made: GoldenContainer) -> None:
    """Replace a clone's tags by the golden ones, and disable its automatic start. Idempotent."""
    config = client.get(f"nodes/{made.node}/lxc/{made.vmid}/config")
    dropped = [option for option in _DROPPED if option in config]
    put(
        client,
        made.node,
        made.vmid,
        tags=";".join(sorted(lab_tags(lab) | {TAG})),
        onboot=False,
        **({"delete": ",".join(dropped)} if dropped else {}),
    )


def seal(client: Client, made: GoldenContainer, goal: str) -> list[str]:
    """Convert a clone to a template, unless it is one, and return the warnings. Raises HomelabError."""
    tasks.settle(client, made.node, made.vmid, _OTHERS)
    if client.get(f"nodes/{made.node}/lxc/{made.vmid}/config").get("template"):
        return []
    return tasks.wait(
        client,
        tasks.begin(client, made.node, made.vmid, "vztemplate", partial(_make_template, client, made)),
        goal,
        _TEMPLATE,
    )


def _make_template(client: Client, made: GoldenContainer) -> str:
    """Start the conversion to a template and return its UPID from the task list: the call's answer is null."""
    before = {task.upid for task in tasks.of_container(client, made.node, made.vmid, "vztemplate")}
    client.post(f"nodes/{made.node}/lxc/{made.vmid}/template")
    until = monotonic() + _APPEARS
    for pause in tasks.pauses():
        for task in tasks.of_container(client, made.node, made.vmid, "vztemplate"):
            if task.upid not in before:
                client.begun(task.upid)
                return task.upid
        if monotonic() > until:
            break
        sleep(pause)
    raise HomelabError(
        f"Cannot convert {made.vmid} to a template: Proxmox started no task",
        f"It accepted the call, but listed no task within {_APPEARS:.0f} s.",
        "Run the same command again: it continues from there.",
    )


def put(client: Client, node: str, vmid: int, **parameters: Any) -> None:
    """Update a configuration with values that can be set repeatedly. Raises HomelabError."""
    for left in reversed(range(_TRIES)):
        try:
            client.put(f"nodes/{node}/lxc/{vmid}/config", **parameters)
            return
        except Unanswered:
            if not left:
                raise


def remove(client: Client, old: GoldenContainer) -> list[str]:
    """Destroy a golden container with its disk and return the warnings. Raises HomelabError."""
    tasks.settle(client, old.node, old.vmid, _OTHERS)
    try:
        task = tasks.begin(
            client,
            old.node,
            old.vmid,
            "vzdestroy",
            partial(
                client.delete, f"nodes/{old.node}/lxc/{old.vmid}", purge=True, **{"destroy-unreferenced-disks": True}
            ),
        )
    except ProxmoxError as error:
        if error.status == REFUSED and is_free(client, old.vmid):
            return []
        raise
    return tasks.wait(client, task, f"remove the golden container {old.vmid}", _DESTROY)
