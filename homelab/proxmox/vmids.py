"""The vmids of containers to which the inventory gives none: found by name, or taken from its range, and kept."""

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
from homelab.private_files import write_private
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError
from homelab.proxmox.properties import tags

_TAKEN = 400  # what `nextid` answers for a vmid that somebody has, visible to this token or not
_WRITING = threading.Lock()  # containers are removed side by side


def resolve_vmids(client: Client, inventory: Inventory, *, take: bool = False) -> Inventory:
    """The inventory with the vmids of the containers that are there already; the others' stay 0, or are taken.

    Proxmox is only asked if a vmid is missing. Raises HomelabError if the range is used up, or if two containers
    could be meant.
    """
    open_ones = [container for container in inventory.containers if not container.vmid]
    if not open_ones:
        return inventory
    rows = {int(row["vmid"]): row for row in client.get("cluster/resources", type="vm")}
    promised = _promised(inventory)
    vmids = {c.name: c.vmid or _present(c, rows) or promised.get(c.name, 0) for c in inventory.containers}
    if take:
        _no_stranger(inventory, rows, vmids)
        free = _free(client, inventory, {*rows, *vmids.values()})
        for container in open_ones:
            if not vmids[container.name]:
                vmids[container.name] = next(free)
    return replace(inventory, containers=tuple(replace(c, vmid=vmids[c.name]) for c in inventory.containers))


def promise(inventory: Inventory) -> None:
    """Keep the vmids, before anything is made: a killed run's next one then looks for its container where it is."""
    kept = {container.name: container.vmid for container in inventory.containers}
    if inventory.vmid_range and kept != _promised(inventory):
        write_private(_file(inventory), json.dumps(kept, indent=2).encode())


def forget(inventory: Inventory, name: str) -> None:
    """A container is gone, so its vmid is anybody's."""
    with _WRITING:
        kept = dict(_promised(inventory))
        if kept.pop(name, None) is not None:
            write_private(_file(inventory), json.dumps(kept, indent=2).encode())


def _promised(inventory: Inventory) -> Mapping[str, int]:
    try:
        kept = json.loads(_file(inventory).read_text())
        return {str(name): int(vmid) for name, vmid in kept.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise HomelabError(
            f"{_file(inventory)} is damaged",
            f"It is not what homelab wrote: {error}.",
            "Move it away: containers that are there are known by their names and tags.",
        ) from error


def _file(inventory: Inventory) -> Path:
    return inventory.state_dir / "vmids.json"


def _present(container: Container, rows: Mapping[int, Mapping[str, Any]]) -> int:
    """The vmid of the container of ours that has this name; 0 if there is none."""
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
            f"Which one is {container.name}?",
            f"{' and '.join(map(str, sorted(found)))} carry its name and this lab's tags.",
            f"Write the right `vmid:` at {container.name} in the inventory.",
        )
    return found[0] if found else 0


def _no_stranger(inventory: Inventory, rows: Mapping[int, Mapping[str, Any]], vmids: Mapping[str, int]) -> None:
    """Raise HomelabError if a container of this lab is nobody's: it may be the one that would be made once more."""
    strangers = [
        vmid
        for vmid, row in sorted(rows.items())
        if row["type"] == "lxc"
        and not row.get("template")
        and lab_tags(inventory.lab) <= tags(row.get("tags"))
        and vmid not in vmids.values()
        and not str(row.get("name", "")).startswith(GOLDEN)
    ]  # nor one that is still being baked
    missing = [name for name, vmid in vmids.items() if not vmid]
    if strangers and missing:
        raise HomelabError(
            f"Is {strangers[0]} one of {', '.join(missing)}?",
            f"It carries this lab's tags, and its name `{rows[strangers[0]].get('name', '')}` is not in the inventory.",
            f"If so, write `vmid: {strangers[0]}` there; if not, take the lab's tags off it.",
        )


def _free(client: Client, inventory: Inventory, taken: Collection[int]) -> Iterator[int]:
    for vmid in inventory.vmid_range:
        if vmid not in taken and is_free(client, vmid):
            yield vmid
    raise HomelabError(
        "No vmid is left for a new container",
        f"{inventory.vmid_range.start}-{inventory.vmid_range.stop - 1}, `vmid_range:` in the inventory, are all taken.",
        "Write a wider range, or a `vmid:` at the container.",
    )


def is_free(client: Client, vmid: int) -> bool:
    """Whether nobody has this vmid. The list of guests has only those that this token may see."""
    try:
        client.get("cluster/nextid", vmid=vmid)
    except ProxmoxError as error:
        if error.status != _TAKEN:
            raise
        return False
    return True
