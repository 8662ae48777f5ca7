"""Backups of whole containers: create them with vzdump, list them, and remove old ones."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from homelab.errors import HomelabError, InputError
from homelab.proxmox import tasks
from homelab.proxmox.client import Client
from homelab.proxmox.errors import Unanswered
from homelab.proxmox.managed_container import ManagedContainer
from homelab.proxmox.tasks import Task, TaskFailed

Mode = Literal["snapshot", "suspend", "stop"]
_DEADLINE = 6 * 3600.0  # timeout of a backup in seconds; includes the time in which Proxmox waits for another backup
_PRUNE = 600.0  # timeout of a removal in seconds
_CHECK_AFTER = (0.5, 2.0, 5.0)  # seconds before each check for a removal after a lost answer
_SHOWN = 70  # maximum length of a log line on the progress line
_NOTES = re.compile(r"(\S+) of homelab lab (\S+?)(?:, SSH host key (SHA256:[A-Za-z0-9+/]{43}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup on a storage; `made` in seconds since the epoch, `size` in bytes.

    `guest`, `lab` and `host_key` are from its notes; None if homelab did not create the backup.
    """

    container: str
    vmid: int
    volid: str
    made: int
    size: int
    protected: bool
    notes: str
    guest: str | None
    lab: str | None
    host_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The result of a backup: mode, size in bytes, downtime, and the older backups that were removed."""

    container: str
    volid: str
    mode: str
    size: int
    still: str | None  # downtime in seconds, in Proxmox's words: `<1`
    removed: Sequence[str] = ()


def notes(lab: str, host_key: str | None) -> str:
    """Return the notes template of a backup: container, lab, and the SSH host key to trust after a restore."""
    return f"{{{{guestname}}}} of homelab lab {lab}" + (f", SSH host key {host_key}" if host_key else "")


def storage_for(client: Client, node: str, wanted: str | None) -> str:
    """Return the storage for backups: the wanted one, or the only one. Raises HomelabError if none is usable."""
    rows = {str(row["storage"]): row for row in client.get(f"nodes/{node}/storage")}
    able = [name for name, row in rows.items() if "backup" in _content(row) and row.get("enabled", 1)]
    if wanted is None:
        if len(able) == 1:
            return able[0]
        if not able:
            raise HomelabError(
                f"Cannot find a storage for backups: none on node {node} accepts them",
                _existing(rows),
                "Allow backups on one: Datacenter > Storage > Edit > Content. If one already does, "
                "this token cannot see it: it needs Datastore.Audit on /storage/NAME.",
            )
        raise InputError(
            "Cannot choose a storage for backups: there are several",
            f"Node {node} has {', '.join(able)} for backups.",
            "Name one: --storage.",
        )
    if wanted not in rows:
        raise InputError(
            f"Cannot use storage {wanted}: it is missing on node {node}", _existing(rows), "Name one that the node has."
        )
    row = rows[wanted]
    if wanted not in able:
        allow = f"`pvesm set {wanted} --content {','.join([*_content(row), 'backup'])}`"
        others = f"; or name another: --storage {' or '.join(able)}" if able else ""
        raise HomelabError(
            f"Cannot use storage {wanted}: it does not accept backups",
            f"It accepts {', '.join(_content(row))}.",
            f"On the node, if possible: {allow}{others}.",
        )
    if not row.get("active", 1):
        raise HomelabError(
            f"Cannot use storage {wanted}: it is not active",
            f"Node {node} cannot reach it at the moment.",
            f"See `pvesm status --storage {wanted}` on the node.",
        )
    return wanted


def _content(row: Mapping[str, Any]) -> list[str]:
    return sorted(str(row.get("content", "")).split(","))


def _existing(rows: Mapping[str, Any]) -> str:
    return f"It has {', '.join(rows) or 'none that this token can see'}."


def backups(client: Client, node: str, storage: str, names: Mapping[int, str], lab: str) -> list[Backup]:
    """Return the backups of these vmids, and those with notes that name this lab's containers, oldest first."""
    rows = client.get(f"nodes/{node}/storage/{storage}/content", content="backup")
    found = [_backup(row, names) for row in rows if row.get("subtype", "lxc") == "lxc" and row.get("vmid")]
    mine = [each for each in found if each.vmid in names or (each.lab == lab and each.guest in names.values())]
    return sorted(mine, key=lambda each: (each.made, each.volid))


def _backup(row: Mapping[str, Any], names: Mapping[int, str]) -> Backup:
    vmid, text = int(row["vmid"]), str(row.get("notes", ""))
    noted = _NOTES.fullmatch(text.strip())
    guest, lab, key = noted.groups() if noted else (None, None, None)
    return Backup(
        container=guest or names.get(vmid, str(vmid)),
        vmid=vmid,
        volid=str(row["volid"]),
        made=int(row.get("ctime") or 0),
        size=int(row.get("size") or 0),
        notes=text,
        protected=bool(row.get("protected")),
        guest=guest,
        lab=lab,
        host_key=key,
    )


def back_up(kept: ManagedContainer, storage: str, mode: Mode | None, note: str) -> Made:
    """Back up a container; a backup that a killed run had started counts as this one. Raises HomelabError.

    Without a mode, Proxmox uses a snapshot if the storage supports it, and else suspends the container briefly.
    """
    for task, status in kept.waited.items():
        log = tasks.log(kept.client, task)
        if task.kind == "vzdump" and status == "OK" and f"--storage {storage} " in f"{log[0]} ":
            return _made(kept, storage, log)
    with kept.progress.step(kept.name, f"back up to {storage}") as update:
        task = tasks.begin(
            kept.client,
            kept.found.node,
            kept.found.vmid,
            "vzdump",
            partial(
                kept.client.post,
                f"nodes/{kept.found.node}/vzdump",
                vmid=kept.found.vmid,
                storage=storage,
                mode=mode or "snapshot",
                compress="zstd",
                **{"notes-template": note},
            ),
        )
        try:
            warnings = tasks.wait(
                kept.client,
                task,
                f"back up {kept.name}",
                _DEADLINE,
                lambda line: update(line.removeprefix("INFO: ")[:_SHOWN]),
            )
        except TaskFailed as error:
            raise _explained(kept, storage, task, error) from error
    for warning in warnings:
        kept.progress.note(kept.name, warning)
    return _made(kept, storage, tasks.log(kept.client, task))


def _made(kept: ManagedContainer, storage: str, log: Sequence[str]) -> Made:
    text = "\n".join(log)

    def logged(pattern: str) -> str | None:
        found = re.search(pattern, text)
        return found[1] if found else None

    target = logged(r"creating .* archive '(.+)'") or ""
    volid = f"{storage}:backup/{target.rpartition('/')[2] if target.startswith('/') else target}"
    rows = kept.client.get(f"nodes/{kept.found.node}/storage/{storage}/content", content="backup", vmid=kept.found.vmid)
    size = next((int(row.get("size") or 0) for row in rows if row["volid"] == volid), 0)
    return Made(
        container=kept.name,
        volid=volid,
        mode=logged(r"backup mode: (\w+)") or "",
        size=size,
        still=logged(r"guest is online again after (\S+) seconds"),
    )


def _explained(kept: ManagedContainer, storage: str, task: Task, error: TaskFailed) -> HomelabError:
    """Return the error with the cause from vzdump's log: the task's exit status is only `job errors`."""
    log = tasks.log(kept.client, task)
    causes = [line.removeprefix("ERROR: ") for line in log if line.startswith("ERROR: ")]
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in log):
        return HomelabError(
            f"Cannot back up {kept.name}: storage {storage} is full",
            "\n".join(causes) or error.details,
            "The unfinished backup was removed. Free space there (`homelab backup --list` shows the "
            "backups), or name another storage: --storage.",
        )
    if lock := re.search(r"CT is locked \(([\w-]+)\)", "\n".join(causes)):
        return kept.locked(lock[1])
    return HomelabError(error.brief, "\n".join(causes), error.resolution) if causes else error


def prune(kept: ManagedContainer, storage: str, keep: int) -> Sequence[str]:
    """Remove a container's oldest unprotected backups beyond `keep` and return them. Raises HomelabError.

    A separate call with the vmid: it needs only the privileges of a backup, unlike vzdump's own pruning.
    """
    path = f"nodes/{kept.found.node}/storage/{storage}/prunebackups"
    which = {"vmid": kept.found.vmid, "type": "lxc", "prune-backups": f"keep-last={keep}"}

    def surplus() -> list[str]:
        return [str(row["volid"]) for row in kept.client.get(path, **which) if row["mark"] == "remove"]

    removed = surplus()
    if not removed:
        return []
    with kept.progress.step(kept.name, f"remove older backups: {len(removed)}"):
        for pause in _CHECK_AFTER:
            try:
                task = Task.of(kept.client.delete(path, **which))
                tasks.wait(kept.client, task, f"remove older backups of {kept.name}", _PRUNE)
                return removed
            except Unanswered as error:
                lost = error
            # The call is idempotent, so it may be sent again.
            time.sleep(pause)
            if not surplus():
                return removed
        raise lost
