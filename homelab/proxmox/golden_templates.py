"""Golden containers on Proxmox: found by what they say of themselves, made by clone and template, cloned, removed."""

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

# Seconds that a task may take: a full clone copies all disks.
_CLONE, _TEMPLATE, _DESTROY, _OTHERS = 3600.0, 600.0, 600.0, 3600.0
_RANGE = 10_000  # vmids that are looked at for a free one
_APPEARS = 10.0  # seconds within which a task that was begun is listed
_TRIES = 3  # times that a change is sent whose answers are lost
_UNINVITED = ("startup", "protection", "hookscript")  # what a golden container does not take from its source


def goldens(client: Client, inventory: Inventory, of: str | None = None) -> list[GoldenContainer]:
    """The lab's golden containers, or those of one container, whole or not, oldest first.

    What is still going on with one that is locked is waited for.
    """
    ours, taken = lab_tags(inventory.lab), {container.vmid for container in inventory.containers}
    rows = [
        row
        for row in client.get("cluster/resources", type="vm")
        if row["type"] == "lxc" and int(row["vmid"]) not in taken and ours <= tags(row.get("tags"))
    ]
    found = (_looked_at(client, str(row["node"]), int(row["vmid"])) for row in rows)
    return sorted((each for each in found if each and of in (None, each.of)), key=lambda each: each.made)


def _looked_at(client: Client, node: str, vmid: int) -> GoldenContainer | None:
    there = _read(client, node, vmid)
    if there and there.lock:
        tasks.settle(client, node, vmid, _OTHERS)
        there = _read(client, node, vmid)
    return there


def _read(client: Client, node: str, vmid: int) -> GoldenContainer | None:
    """What it says of itself; None if it is no golden container, or has gone."""
    try:
        config = client.get(f"nodes/{node}/lxc/{vmid}/config")
    except ProxmoxError as error:
        if error.status == REFUSED and is_free(client, vmid):
            return None
        raise
    said = golden_container.read(str(config.get("description", "")))
    return said and replace(
        said,
        vmid=vmid,
        node=node,
        disk=shape_of(config, vmid).disk,
        lock=config.get("lock"),
        whole=bool(config.get("template")),
    )


def with_goldens(client: Client, inventory: Inventory, plan: Plan) -> Plan:
    """The plan with the golden container of each clone. Raises HomelabError where there is none that will do."""
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
            f"{name}: there is no golden container of {of}",
            f"There are golden containers of {others or 'nobody'} in this lab.",
            f"`homelab bake {of}` makes one while {of} is there; or take `clone_from: {of}` out of the inventory.",
        )
    newest = theirs[-1]
    if not is_same_template(container.template, newest.template):
        raise HomelabError(
            f"{name}: the golden container of {of} stems from another template",
            f"It is {newest.template}, the inventory says {container.template}, and what services can "
            "be had follows from that.",
            f"Write the same `template` at {name} as {of} had, or bake {of} anew.",
        )
    if container.shape.disk < newest.disk:
        raise HomelabError(
            f"{name}: its disk would be smaller than that of its golden container",
            f"{newest.vmid} has {newest.disk} GiB, the inventory says {container.shape.disk}, and a "
            "disk cannot shrink.",
            f"Write `disk: {newest.disk}` or more at {name}.",
        )
    return newest


def free_vmid(client: Client, inventory: Inventory, source: int) -> int:
    """A vmid that nobody has, where this token may make a clone: the last of the inventory's range, or the next one.

    It is not reserved by that. Raises HomelabError, with the lines that grant what is missing.
    """
    permissions, token = client.get("access/permissions"), inventory.endpoint.token_id
    if "VM.Clone" not in privileges_on(permissions, f"/vms/{source}"):
        raise HomelabError(
            "Proxmox does not allow this token to clone",
            f"It has no VM.Clone on /vms/{source}.",
            grant(f"(/vms/{source}, VM.Clone)", token),
        )
    first = int(client.get("cluster/nextid"))
    named = sorted(int(path[5:]) for path in permissions if re.fullmatch(r"/vms/\d+", path))
    candidates = reversed(inventory.vmid_range) if inventory.vmid_range else chain(range(first, first + _RANGE), named)
    taken = {container.vmid for container in inventory.containers}
    # A clone is made in its source's pool, and may be made by whoever may make containers there.
    pool = next((c.shape.pool for c in inventory.containers if c.vmid == source and c.shape.pool), None)
    anywhere = pool is not None and "VM.Allocate" in privileges_on(permissions, f"/pool/{pool}")
    for vmid in candidates:
        allowed = anywhere or "VM.Allocate" in privileges_on(permissions, f"/vms/{vmid}")
        if vmid not in taken and allowed and is_free(client, vmid):
            return vmid
    raise HomelabError(
        "There is no free vmid on which this token may make a golden container",
        "Golden containers need vmids of their own: two, as a new one is made before the old one goes.",
        f"On the node: `{role_line(CONTAINERS, CONTAINERS.all_privileges)}`, "
        f"then `{acl_line('/vms', [CONTAINERS], token)}`; or "
        "give the inventory a `pool`, and run the lines that `homelab doctor` prints.",
    )


def clone(client: Client, node: str, source: int, vmid: int, what: str, **parameters: Any) -> list[str]:
    """Make a full clone of a container that does not run; its warnings. Raises HomelabError.

    Proxmox locks the source meanwhile, so a clone that still runs is waited for.
    """
    tasks.settle(client, node, source, _OTHERS)
    task = tasks.begin(
        client,
        node,
        source,
        "vzclone",
        partial(client.post, f"nodes/{node}/lxc/{source}/clone", newid=vmid, full=True, **parameters),
    )
    return tasks.wait(client, task, what, _CLONE)


def mark(client: Client, lab: str, made: GoldenContainer) -> None:
    """Tag a clone as golden and as nothing else, and see that it never starts by itself. May be done twice."""
    config = client.get(f"nodes/{made.node}/lxc/{made.vmid}/config")
    dropped = [option for option in _UNINVITED if option in config]
    put(
        client,
        made.node,
        made.vmid,
        tags=";".join(sorted(lab_tags(lab) | {TAG})),
        onboot=False,
        **({"delete": ",".join(dropped)} if dropped else {}),
    )


def seal(client: Client, made: GoldenContainer, what: str) -> list[str]:
    """Make a clone a template, unless it is one; the warnings. Raises HomelabError."""
    tasks.settle(client, made.node, made.vmid, _OTHERS)
    if client.get(f"nodes/{made.node}/lxc/{made.vmid}/config").get("template"):
        return []
    return tasks.wait(
        client,
        tasks.begin(client, made.node, made.vmid, "vztemplate", partial(_make_template, client, made)),
        what,
        _TEMPLATE,
    )


def _make_template(client: Client, made: GoldenContainer) -> str:
    """The UPID of the task that makes it a template: the call's own answer is null."""
    before = {task.upid for task in tasks.of_container(client, made.node, made.vmid, "vztemplate")}
    client.post(f"nodes/{made.node}/lxc/{made.vmid}/template")
    until = monotonic() + _APPEARS
    for pause in tasks.pauses():
        for task in tasks.of_container(client, made.node, made.vmid, "vztemplate"):
            if task.upid not in before:
                return task.upid
        if monotonic() > until:
            break
        sleep(pause)
    raise HomelabError(
        f"{made.vmid} does not become a template",
        "Proxmox accepted the call, and no task is to be seen.",
        "Run the same command again: it goes on from there.",
    )


def put(client: Client, node: str, vmid: int, **parameters: Any) -> None:
    """Change a configuration to values that may be set twice. Raises HomelabError."""
    for left in reversed(range(_TRIES)):
        try:
            client.put(f"nodes/{node}/lxc/{vmid}/config", **parameters)
            return
        except Unanswered:
            if not left:
                raise


def remove(client: Client, old: GoldenContainer) -> list[str]:
    """Destroy a golden container with its disk; the warnings. Raises HomelabError."""
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
    return tasks.wait(client, task, f"removing the golden container {old.vmid}", _DESTROY)
