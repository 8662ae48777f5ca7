"""Backups of whole containers: making them with vzdump, which there are, and how many are kept."""

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
_DEADLINE = 6 * 3600.0  # seconds that a backup may take; another one on the node is waited for by Proxmox itself
_PRUNE = 600.0
_LOOKS = (0.5, 2.0, 5.0)  # seconds before a removal whose answer was lost is looked for
_SHOWN = 70  # characters of a log line on the progress line
_NOTES = re.compile(r"(\S+) of homelab lab (\S+?)(?:, SSH host key (SHA256:[A-Za-z0-9+/]{43}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup on a storage; `made` in seconds since the epoch, `size` in bytes.

    `guest`, `lab` and `host_key` are what its notes say, if homelab has made it.
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
    """A backup that was made: how, its size in bytes, how long the container stood still, and what went for it."""

    container: str
    volid: str
    mode: str
    size: int
    still: str | None  # seconds, as Proxmox says it: `<1`
    removed: Sequence[str] = ()


def notes(lab: str, host_key: str | None) -> str:
    """What Proxmox is to note at a backup: whose it is, and the key by which it is known again after a restore."""
    return f"{{{{guestname}}}} of homelab lab {lab}" + (f", SSH host key {host_key}" if host_key else "")


def storage_for(client: Client, node: str, wanted: str | None) -> str:
    """The storage for backups: the one that is wanted, or the only one. Raises HomelabError if it cannot be that."""
    rows = {str(row["storage"]): row for row in client.get(f"nodes/{node}/storage")}
    able = [name for name, row in rows.items() if "backup" in _content(row) and row.get("enabled", 1)]
    if wanted is None:
        if len(able) == 1:
            return able[0]
        if not able:
            raise HomelabError(
                f"No storage of node {node} holds backups",
                _those(rows),
                "Let one hold them: Datacenter > Storage > Edit > Content. If one does, this token "
                "may not see it: it needs Datastore.Audit on /storage/NAME.",
            )
        raise InputError(
            "Which storage are the backups on?",
            f"Node {node} has {', '.join(able)} for backups.",
            "Name one: --storage.",
        )
    if wanted not in rows:
        raise InputError(f"There is no storage {wanted} on node {node}", _those(rows), "Name one that it has.")
    row = rows[wanted]
    if wanted not in able:
        let = f"`pvesm set {wanted} --content {','.join([*_content(row), 'backup'])}`"
        others = f"; or name another: --storage {' or '.join(able)}" if able else ""
        raise HomelabError(
            f"Storage {wanted} holds no backups",
            f"It holds {', '.join(_content(row))}.",
            f"On the node, if it can: {let}{others}.",
        )
    if not row.get("active", 1):
        raise HomelabError(
            f"Storage {wanted} is not active",
            f"Node {node} cannot reach it at the moment.",
            f"See `pvesm status --storage {wanted}` on the node.",
        )
    return wanted


def _content(row: Mapping[str, Any]) -> list[str]:
    return sorted(str(row.get("content", "")).split(","))


def _those(rows: Mapping[str, Any]) -> str:
    return f"It has {', '.join(rows) or 'none that this token may see'}."


def backups(client: Client, node: str, storage: str, names: Mapping[int, str], lab: str) -> list[Backup]:
    """The backups of these vmids, and those that say they are of this lab, oldest first."""
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
    """Make a backup of a container; one that a killed run has begun is taken for it. Raises HomelabError.

    Without a mode, Proxmox takes a snapshot where the storage can, and else holds the container for a moment.
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
                f"{kept.name}: its backup",
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

    def said(pattern: str) -> str | None:
        found = re.search(pattern, text)
        return found[1] if found else None

    target = said(r"creating .* archive '(.+)'") or ""
    volid = f"{storage}:backup/{target.rpartition('/')[2] if target.startswith('/') else target}"
    rows = kept.client.get(f"nodes/{kept.found.node}/storage/{storage}/content", content="backup", vmid=kept.found.vmid)
    size = next((int(row.get("size") or 0) for row in rows if row["volid"] == volid), 0)
    return Made(
        container=kept.name,
        volid=volid,
        mode=said(r"backup mode: (\w+)") or "",
        size=size,
        still=said(r"guest is online again after (\S+) seconds"),
    )


def _explained(kept: ManagedContainer, storage: str, task: Task, error: TaskFailed) -> HomelabError:
    """The error with what vzdump itself says of the cause: its task only says `job errors`."""
    log = tasks.log(kept.client, task)
    causes = [line.removeprefix("ERROR: ") for line in log if line.startswith("ERROR: ")]
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in log):
        return HomelabError(
            f"{kept.name}: storage {storage} is full",
            "\n".join(causes) or error.details,
            "Nothing is left of this backup. Make room there (`homelab backup --list` shows what it "
            "holds), or name another: --storage.",
        )
    if lock := re.search(r"CT is locked \(([\w-]+)\)", "\n".join(causes)):
        return kept.locked(lock[1])
    return HomelabError(error.brief, "\n".join(causes), error.resolution) if causes else error


def prune(kept: ManagedContainer, storage: str, keep: int) -> Sequence[str]:
    """Remove a container's oldest backups beyond `keep`, but none that is protected; those. Raises HomelabError.

    As a call of its own, with its vmid: for that the token needs no more than for a backup.
    """
    path = f"nodes/{kept.found.node}/storage/{storage}/prunebackups"
    which = {"vmid": kept.found.vmid, "type": "lxc", "prune-backups": f"keep-last={keep}"}

    def doomed() -> list[str]:
        return [str(row["volid"]) for row in kept.client.get(path, **which) if row["mark"] == "remove"]

    gone = doomed()
    if not gone:
        return []
    with kept.progress.step(kept.name, f"remove {len(gone)} older"):
        for pause in _LOOKS:
            try:
                task = Task.of(kept.client.delete(path, **which))
                kept.client.begun(task.upid)
                tasks.wait(kept.client, task, f"{kept.name}: removing older backups", _PRUNE)
                return gone
            except Unanswered as error:
                lost = error
            # What it removes is the same however often it is asked for.
            time.sleep(pause)
            if not doomed():
                return gone
        raise lost
