"""The vmids of containers without a `vmid` in the inventory: found by name, or taken from its range and recorded."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from homelab.errors import HomelabError
from homelab.model import Container, Inventory, lab_tags
from homelab.plan.golden_container import GOLDEN
from homelab.private_files import damaged, read_mapping, write_private
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.properties import tags

_TAKEN = 400  # status of `nextid` for a used vmid, whether this token can see the guest or not
_WRITING = threading.Lock()  # containers are removed in parallel


def resolve_vmids(client: Client, inventory: Inventory, *, take: bool = False) -> Inventory:
    """Return the inventory with the vmids of existing containers; those of others stay 0 or, with `take`, are assigned.

    Makes no call if no vmid is missing. Raises HomelabError if the range is exhausted, or a name is ambiguous.
    """
    open_ones = [container for container in inventory.containers if not container.vmid]
    if not open_ones:
        return inventory
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    promised = _promised(inventory)
    vmids = {c.name: c.vmid or _present(c, rows) or promised.get(c.name, 0) for c in inventory.containers}
    if take:
        _require_no_unknown(inventory, rows, vmids)
        free = _free(client, inventory, {*rows, *vmids.values()})
        for container in open_ones:
            if not vmids[container.name]:
                vmids[container.name] = next(free)
    return replace(inventory, containers=tuple(replace(c, vmid=vmids[c.name]) for c in inventory.containers))


def promise(inventory: Inventory) -> None:
    """Record the vmids before containers are created, so that the run after a kill finds its containers."""
    kept = {container.name: container.vmid for container in inventory.containers}
    if inventory.vmid_range and kept != _promised(inventory):
        write_private(_file(inventory), json.dumps(kept, indent=2).encode())


def forget(inventory: Inventory, name: str) -> None:
    """Remove the record of a destroyed container's vmid."""
    with _WRITING:
        kept = dict(_promised(inventory))
        if kept.pop(name, None) is not None:
            write_private(_file(inventory), json.dumps(kept, indent=2).encode())


def _promised(inventory: Inventory) -> Mapping[str, int]:
    resolution = "Delete it: homelab finds existing containers by their names and tags."
    kept = read_mapping(_file(inventory), resolution)
    if not all(type(vmid) is int for vmid in kept.values()):
        raise damaged(_file(inventory), "A vmid in it is not a whole number.", resolution)
    return kept


def _file(inventory: Inventory) -> Path:
    return inventory.state_dir / "vmids.json"


def _present(container: Container, rows: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the vmid of our container with this name; 0 if there is none."""
    found = [
        vmid
        for vmid, row in rows.items()
        if row["type"] == "lxc"
        and row.get("name") == container.name
        and not row.get("template")
        and container.lab_tags <= tags(row.get("tags"))
    ]
    if len(found) > 1:
        raise HomelabError(
            f"Cannot identify {container.name}: several containers match",
            f"{' and '.join(map(str, sorted(found)))} have its name and this lab's tags.",
            f"Write the right `vmid:` at {container.name} in the inventory.",
        )
    return found[0] if found else 0


def _require_no_unknown(inventory: Inventory, rows: Mapping[int, Mapping[str, Any]], vmids: Mapping[str, int]) -> None:
    """Raise HomelabError if a container has this lab's tags but an unknown name: it may be one that seems missing."""
    unknown = [
        vmid
        for vmid, row in sorted(rows.items())
        if row["type"] == "lxc"
        and not row.get("template")
        and lab_tags(inventory.lab) <= tags(row.get("tags"))
        and vmid not in vmids.values()
        and not str(row.get("name", "")).startswith(GOLDEN)
    ]  # such as an unfinished golden container
    missing = [name for name, vmid in vmids.items() if not vmid]
    if unknown and missing:
        raise HomelabError(
            f"Cannot create {', '.join(missing)}: {unknown[0]} may already be one of them",
            f"It has this lab's tags, and its name `{rows[unknown[0]].get('name', '')}` is not in the inventory.",
            f"If it is, write `vmid: {unknown[0]}` there; if not, remove the lab's tags from it.",
        )


def _free(client: Client, inventory: Inventory, taken: Collection[int]) -> Iterator[int]:
    for vmid in inventory.vmid_range:
        if vmid not in taken and is_free(client, vmid):
            yield vmid
    raise HomelabError(
        "Cannot assign a vmid: the range is exhausted",
        f"{inventory.vmid_range.start}-{inventory.vmid_range.stop - 1}, `vmid_range:` in the inventory, are all used.",
        "Write a wider range, or a `vmid:` at the container.",
    )


def is_free(client: Client, vmid: int) -> bool:
    """Check that no guest has a vmid, including guests that this token cannot see."""
    try:
        client.get("cluster/nextid", vmid=vmid)
    except ProxmoxError as error:
        if error.status != _TAKEN:
            raise
        return False
    return True
