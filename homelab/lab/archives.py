"""Backups of real containers: a tar of the root with the owners that it has inside, as Proxmox's vzdump makes it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fakepve import FakeCt, TaskError

from homelab.lab import guest
from homelab.lab.backups import ARCHIVE, BackupApi, made_at, online_again
from homelab.lab.command import ProgramFailed, attempt, run
from homelab.lab.lxc import AS_CONTAINER_ROOT, copy_tree, remove_tree
from homelab.lab.snapshots import SnapshotNode
from homelab.lab.subids import FIRST
from homelab.lab.tasks import Body, said, say

STORAGE = "local"
_LONG = 3600.0  # seconds that packing or unpacking may take
_CONF, _FIREWALL = "etc/vzdump/pct.conf", "etc/vzdump/pct.fw"
_TAR_FLAGS = (
    "--one-file-system",
    "-p",
    "--sparse",
    "--numeric-owner",
    "--acls",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--warning=no-file-ignored",
    "--warning=no-xattr-write",
    "--totals",
)
_LEFT_OUT = (
    "--no-anchored",
    "--exclude=lost+found",
    "--anchored",
    "--exclude=./tmp/?*",
    "--exclude=./var/tmp/?*",
    "--exclude=./var/run/?*.pid",
)


class BackupNode(BackupApi, SnapshotNode):
    """The part of the node that makes backups of containers and containers of backups."""

    def recall_backups(self) -> None:
        """Take up the backups that are there, and remove what a killed node has left. Blocks."""
        for leftover in [*self._dumps.glob("*.dat"), *self.lab.lxcpath.glob("vzdump-*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for file in sorted(self._dumps.glob("*.tar.zst")):
            if found := ARCHIVE.fullmatch(volume := f"backup/{file.name}"):
                notes = _beside(file, ".notes")
                self.storages[STORAGE]["volumes"][volume] = {
                    "content": "backup",
                    "format": "tar.zst",
                    "size": file.stat().st_size,
                    "vmid": int(found[1]),
                    "ctime": made_at(volume),
                    **({"notes": notes.read_text()} if notes.exists() else {}),
                    **({"protected": True} if _beside(file, ".protected").exists() else {}),
                }

    def thaw(self, ct: FakeCt) -> None:
        """Let a container go on that a killed node was making a backup of. Blocks."""
        if ct.lock == "backup":
            self.runtime.thaw(ct.vmid)
            ct.lock = None

    async def dump(self, ct: FakeCt, volume: str, mode: str, config: str) -> int:
        """See BackupApi.dump. In mode `suspend` the container stands still while it is read.

        Proxmox copies it with rsync before, so that it stands still for the last changes only.
        """
        self.save(ct)  # with its lock: a node that is killed now knows whom to let go on
        return await asyncio.to_thread(self._dump, ct.vmid, self._file(volume), mode, config)

    def _dump(self, vmid: int, file: Path, mode: str, config: str) -> int:
        self._dumps.mkdir(mode=0o700, exist_ok=True)
        work, draft = self.lab.lxcpath / f"vzdump-{vmid}", file.with_suffix("").with_suffix(".dat")
        try:
            work.mkdir()
            shutil.chown(work, FIRST, FIRST)
            guest.write_inside(work, {_CONF: config.encode(), _FIREWALL: b""})
            with self._still(vmid, mode, work) as root:
                say_all(self._pack(root, work))
            run(["zstd", "--quiet", "--threads=0", work / "root.tar", "-o", draft], timeout=_LONG)
            shutil.chown(draft, 0, 0)  # zstd hands on whose the tar was
            draft.rename(file)
        finally:
            shutil.rmtree(work, ignore_errors=not work.exists())
            draft.unlink(missing_ok=True)
        return file.stat().st_size

    def _pack(self, root: Path, work: Path) -> str:
        done = attempt(
            [
                *AS_CONTAINER_ROOT,
                "tar",
                "-cf",
                work / "root.tar",
                *_TAR_FLAGS,
                f"--directory={work}",
                f"./{_CONF}",
                f"./{_FIREWALL}",
                f"--directory={root}",
                *_LEFT_OUT,
                "./",
            ],
            timeout=_LONG,
        )
        said = done.stderr.decode(errors="replace")
        if done.returncode:
            raise ProgramFailed(f"tar ended with status {done.returncode}", said.strip())
        return said

    @contextmanager
    def _still(self, vmid: int, mode: str, work: Path) -> Iterator[Path]:
        """A root in which nothing moves, as the mode has it: a snapshot's, or the container's own meanwhile."""
        root = self.runtime.root(vmid)
        if mode == "snapshot":
            say("INFO: create storage snapshot 'vzdump'")
            with self.runtime.frozen(vmid):
                copy_tree(root, work / "vzdump")
            yield work / "vzdump"
            say("INFO: cleanup temporary 'vzdump' snapshot")
            remove_tree(work / "vzdump")
        elif mode == "suspend":
            say("INFO: suspending guest")
            began = time.time()
            try:
                with self.runtime.frozen(vmid):
                    yield root
            finally:
                say("INFO: resuming guest")
                online_again(began)
        else:
            yield root

    async def config_in(self, volid: str) -> str:
        """See BackupApi.config_in."""
        try:
            return await asyncio.to_thread(
                run, ["tar", "-I", "zstd", "--occurrence=1", "-xOf", self._file(volid.partition(":")[2]), f"./{_CONF}"]
            )
        except ProgramFailed as error:
            raise TaskError(f"unable to read the configuration in '{volid}': {error.details}") from error

    async def unpack_backup(self, ct: FakeCt, volid: str, body: Body) -> str | None:
        """Make a container of a backup, in reality first and in the model after it. Raises TaskError."""
        say(f"recovering backed-up configuration from '{volid}'")
        async with self.made_or_gone(ct, f"unable to restore CT {ct.vmid} - "):
            if self.volume_exists(volid) is not True:
                raise TaskError(f"volume '{volid}' does not exist")
            say(f"restoring '{volid}' now..")
            await asyncio.to_thread(self._unpack, ct.vmid, self._file(volid.partition(":")[2]))
            await asyncio.to_thread(self.measure.weigh, ct.vmid)
            say("merging backed-up and given configuration..")
            return await self.restored(ct, volid, body)

    def _unpack(self, vmid: int, file: Path) -> None:
        root = self.runtime.root(vmid)
        root.mkdir(parents=True)
        shutil.chown(root, FIRST, FIRST)
        say(f"extracting archive '{file}'")
        # The archive is root's alone, and unpacked as the container's root: it goes through standard input.
        with file.open("rb") as archive:
            run(
                [
                    *AS_CONTAINER_ROOT,
                    "tar",
                    "-I",
                    "zstd",
                    "-xpf",
                    "-",
                    *_TAR_FLAGS,
                    "-C",
                    root,
                    "--skip-old-files",
                    "--anchored",
                    "--exclude=./dev/*",
                ],
                stdin=archive,
                timeout=_LONG,
            )
        for name in (_CONF, _FIREWALL):
            guest.remove_inside(root, name)

    async def _content_put(self, v: Any, user: str) -> None:
        await super()._content_put(v, user)
        self.remember_volume(self._volume_target(v)[1])

    def remember_volume(self, volume: str) -> None:
        """See BackupApi.remember_volume: notes and protection are files beside the archive, as on Proxmox."""
        entry = self.storages[STORAGE]["volumes"].get(volume, {})
        if entry.get("content") != "backup":
            return
        for suffix, content in ((".notes", entry.get("notes")), (".protected", "" if entry.get("protected") else None)):
            beside = _beside(self._file(volume), suffix)
            if content is None:
                beside.unlink(missing_ok=True)
            else:
                beside.write_text(content)

    def forget_volume(self, volume: str) -> None:
        """See BackupApi.forget_volume."""
        file = self._file(volume)
        for path in (file, _beside(file, ".notes"), _beside(file, ".protected"), _log_of(file)):
            path.unlink(missing_ok=True)

    def keep_log(self, volume: str) -> None:
        """See BackupApi.keep_log."""
        _log_of(self._file(volume)).write_text("".join(f"{line}\n" for line in said()))

    async def task(
        self, node: str, ttype: str, tid: Any, user: str, body: Body, vm: Any = None, lock: bool = True, log: Any = ()
    ) -> str:
        """Start a task; one that deletes a volume deletes its files too."""

        async def and_files() -> str | None:
            note = await body()
            for file in self._dumps.glob("*.tar.zst"):
                if (volume := f"backup/{file.name}") not in self.storages[STORAGE]["volumes"]:
                    self.forget_volume(volume)
            return note

        return await super().task(node, ttype, tid, user, and_files if ttype == "imgdel" else body, vm, lock, log)

    @property
    def _dumps(self) -> Path:
        return self.lab.state_dir / "dump"

    def _file(self, volume: str) -> Path:
        return self._dumps / volume.removeprefix("backup/")


def say_all(text: str) -> None:
    """What a program has printed, as lines of the task's log."""
    for line in text.splitlines():
        say(f"INFO: {line}")


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _log_of(file: Path) -> Path:
    return file.with_suffix("").with_suffix(".log")
