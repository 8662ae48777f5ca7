"""Backup archives of real containers: tar files with the owner ids seen inside the container, as vzdump writes them."""

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
from homelab.lab.backups import ARCHIVE, BackupApi, created_at, log_downtime
from homelab.lab.command import ProgramFailed, attempt, run
from homelab.lab.lxc import AS_CONTAINER_ROOT, copy_tree, remove_tree
from homelab.lab.snapshots import SnapshotNode
from homelab.lab.subids import FIRST
from homelab.lab.tasks import Body, log_line, task_log

STORAGE = "local"
_LONG = 3600.0  # timeout in seconds for packing or unpacking
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
    """Mixin that writes backup archives and restores containers from them."""

    def load_backups(self) -> None:
        """Register the existing backups and remove leftovers of a killed node. Blocks."""
        for leftover in [*self._dumps.glob("*.dat"), *self.lab.lxcpath.glob("vzdump-*")]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for file in sorted(self._dumps.glob("*.tar.zst")):
            if found := ARCHIVE.fullmatch(volume := f"backup/{file.name}"):
                notes = _sidecar(file, ".notes")
                self.storages[STORAGE]["volumes"][volume] = {
                    "content": "backup",
                    "format": "tar.zst",
                    "size": file.stat().st_size,
                    "vmid": int(found[1]),
                    "ctime": created_at(volume),
                    **({"notes": notes.read_text()} if notes.exists() else {}),
                    **({"protected": True} if _sidecar(file, ".protected").exists() else {}),
                }

    def unfreeze(self, ct: FakeCt) -> None:
        """Unfreeze and unlock a container that a killed node was backing up. Blocks."""
        if ct.lock == "backup":
            self.runtime.unfreeze(ct.vmid)
            ct.lock = None

    async def dump(self, ct: FakeCt, volume: str, mode: str, config: str) -> int:
        """See BackupApi.dump. In mode `suspend` the container is frozen while it is read.

        Proxmox copies it with rsync first, so it freezes the container only for the last changes.
        """
        self.save(ct)  # with its lock, so that a killed node unfreezes this container when it restarts
        return await asyncio.to_thread(self._dump, ct.vmid, self._file(volume), mode, config)

    def _dump(self, vmid: int, file: Path, mode: str, config: str) -> int:
        self._dumps.mkdir(mode=0o700, exist_ok=True)
        work, draft = self.lab.lxcpath / f"vzdump-{vmid}", file.with_suffix("").with_suffix(".dat")
        try:
            work.mkdir()
            shutil.chown(work, FIRST, FIRST)
            guest.write_inside(work, {_CONF: config.encode(), _FIREWALL: b""})
            with self._still(vmid, mode, work) as root:
                log_output(self._pack(root, work))
            run(["zstd", "--quiet", "--threads=0", work / "root.tar", "-o", draft], timeout=_LONG)
            shutil.chown(draft, 0, 0)  # zstd copies the owner of the tar file
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
        output = done.stderr.decode(errors="replace")
        if done.returncode:
            raise ProgramFailed(f"Cannot run tar: exit status {done.returncode}", output.strip())
        return output

    @contextmanager
    def _still(self, vmid: int, mode: str, work: Path) -> Iterator[Path]:
        """Yield a root that does not change, depending on the mode: a snapshot's, or the frozen container's own."""
        root = self.runtime.root(vmid)
        if mode == "snapshot":
            log_line("INFO: create storage snapshot 'vzdump'")
            with self.runtime.frozen(vmid):
                copy_tree(root, work / "vzdump")
            yield work / "vzdump"
            log_line("INFO: cleanup temporary 'vzdump' snapshot")
            remove_tree(work / "vzdump")
        elif mode == "suspend":
            log_line("INFO: suspending guest")
            began = time.time()
            try:
                with self.runtime.frozen(vmid):
                    yield root
            finally:
                log_line("INFO: resuming guest")
                log_downtime(began)
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
        """Restore a container from a backup: first the real one, then fakepve's model of it. Raises TaskError."""
        log_line(f"recovering backed-up configuration from '{volid}'")
        async with self.removed_on_failure(ct, f"unable to restore CT {ct.vmid} - "):
            if self.volume_exists(volid) is not True:
                raise TaskError(f"volume '{volid}' does not exist")
            log_line(f"restoring '{volid}' now..")
            await asyncio.to_thread(self._unpack, ct.vmid, self._file(volid.partition(":")[2]))
            await asyncio.to_thread(self.measure.measure_disk, ct.vmid)
            log_line("merging backed-up and given configuration..")
            return await self.restored(ct, volid, body)

    def _unpack(self, vmid: int, file: Path) -> None:
        root = self.runtime.root(vmid)
        self.runtime.make_root(vmid)
        log_line(f"extracting archive '{file}'")
        # Only root can read the archive, and the container's root unpacks it: pass it through standard input.
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
        self.save_volume(self._volume_target(v)[1])

    def save_volume(self, volume: str) -> None:
        """See BackupApi.save_volume: notes and protection are files next to the archive, as on Proxmox."""
        entry = self.storages[STORAGE]["volumes"].get(volume, {})
        if entry.get("content") != "backup":
            return
        for suffix, content in ((".notes", entry.get("notes")), (".protected", "" if entry.get("protected") else None)):
            sidecar = _sidecar(self._file(volume), suffix)
            if content is None:
                sidecar.unlink(missing_ok=True)
            else:
                sidecar.write_text(content)

    def delete_volume_files(self, volume: str) -> None:
        """See BackupApi.delete_volume_files."""
        file = self._file(volume)
        for path in (file, _sidecar(file, ".notes"), _sidecar(file, ".protected"), _log_of(file)):
            path.unlink(missing_ok=True)

    def save_log(self, volume: str) -> None:
        """See BackupApi.save_log."""
        _log_of(self._file(volume)).write_text("".join(f"{line}\n" for line in task_log()))

    async def task(
        self, node: str, ttype: str, tid: Any, user: str, body: Body, vm: Any = None, lock: bool = True, log: Any = ()
    ) -> str:
        """Start a task; a task that deletes a volume also deletes its files."""

        async def and_files() -> str | None:
            note = await body()
            for file in self._dumps.glob("*.tar.zst"):
                if (volume := f"backup/{file.name}") not in self.storages[STORAGE]["volumes"]:
                    self.delete_volume_files(volume)
            return note

        return await super().task(node, ttype, tid, user, and_files if ttype == "imgdel" else body, vm, lock, log)

    @property
    def _dumps(self) -> Path:
        return self.lab.state_dir / "dump"

    def _file(self, volume: str) -> Path:
        return self._dumps / volume.removeprefix("backup/")


def log_output(text: str) -> None:
    """Add a program's output to the task's log."""
    for line in text.splitlines():
        log_line(f"INFO: {line}")


def _sidecar(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _log_of(file: Path) -> Path:
    return file.with_suffix("").with_suffix(".log")
