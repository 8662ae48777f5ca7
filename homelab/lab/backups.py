"""Proxmox's API for vzdump, restore and retention. A subclass defines the archive format."""

from __future__ import annotations

import asyncio
import re
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fakepve import FakeCt, FakePve, PveError, TaskError
from fakepve.lxc import SNAPSHOT_STORAGE

from homelab.errors import HomelabError
from homelab.lab.config_file import parse_config, render_config
from homelab.lab.tasks import Body, log_line

ARCHIVE = re.compile(r"backup/vzdump-lxc-(\d+)-(\d{4}(?:_\d\d){2}-\d\d(?:_\d\d){2})\.tar\.zst")
_STAMP = "%Y_%m_%d-%H_%M_%S"
# Options that a restore copies from the backup's configuration without passing them as parameters.
_NOT_GIVEN = frozenset({"arch", "ostype"})
_SHUTDOWN = 600  # timeout in seconds for a clean shutdown


class BackupApi(FakePve):  # type: ignore[misc]
    """Mixin for the backup calls, which fakepve alone only simulates."""

    @abstractmethod
    async def dump(self, ct: FakeCt, volume: str, mode: str, config: str) -> int:
        """Write a container's archive and return its size in bytes. Raises TaskError, HomelabError or OSError."""

    @abstractmethod
    async def config_in(self, volid: str) -> str:
        """Return the configuration file inside an archive. Raises TaskError."""

    def save_volume(self, volume: str) -> None:
        """Persist a backup's notes and protection."""

    def delete_volume_files(self, volume: str) -> None:
        """Delete a backup's files."""

    def save_log(self, volume: str) -> None:
        """Write the current task's log next to the backup."""

    # ----------------------------------------------------------- requests

    async def synthesise(self, match: Any, method: str, info: Any, user: str, values: Mapping[str, Any]) -> Any:
        """Answer the backup calls; fakepve has already checked parameters and privileges."""
        handler = {
            ("POST", "/nodes/{node}/vzdump"): self._vzdump,
            ("GET", "/nodes/{node}/vzdump/extractconfig"): self._extract_config,
            ("GET", "/nodes/{node}/lxc/{vmid}/feature"): self._feature,
            ("GET", "/nodes/{node}/storage/{storage}/prunebackups"): self._prune_preview,
            ("DELETE", "/nodes/{node}/storage/{storage}/prunebackups"): self._prune,
        }.get((method, match.template))
        return await (handler(user, values) if handler else super().synthesise(match, method, info, user, values))

    async def _feature(self, user: str, v: Mapping[str, Any]) -> dict[str, int]:
        return {"hasFeature": int(self._can_snapshot(self._find_ct(v["node"], v["vmid"])))}

    def _can_snapshot(self, ct: FakeCt) -> bool:
        mounts = [
            str(value).partition(",")[0] for key, value in ct.config.items() if re.fullmatch(r"rootfs|mp\d+", key)
        ]
        return all(self.storages.get(mount.split(":")[0], {}).get("type") in SNAPSHOT_STORAGE for mount in mounts)

    async def _vzdump(self, user: str, v: Mapping[str, Any]) -> str:
        storage, vmid = v.get("storage") or "local", str(v.get("vmid", ""))
        if not vmid.isdigit() or v.get("compress") != "zstd":
            raise PveError(501, "this node only supports backups of one container, with zstd")
        if "prune-backups" in v:
            self.require(user, f"/storage/{storage}", "Datastore.Allocate")
        for key in ("bwlimit", "ionice", "performance"):
            if key in v:
                self.require(user, "/", "Sys.Modify")
        ct = self.ct(int(vmid))
        if ct is not None and ct.node != v["node"]:
            return "OK"
        self.require(user, f"/storage/{storage}", "Datastore.AllocateSpace")

        async def body() -> None:
            await self._job(user, vmid, storage, v)

        return str(await self.task(v["node"], "vzdump", vmid, user, body, vm=ct, lock=False))

    async def _job(self, user: str, vmid: str, storage: str, v: Mapping[str, Any]) -> None:
        if "backup" not in str(self.storages.get(storage, {}).get("content", "")).split(","):
            raise TaskError(
                f"could not get storage information for '{storage}': can't use storage '{storage}' for "
                "backups - wrong content type"
            )
        log_line(f"INFO: starting new backup job: vzdump {vmid} --storage {storage} --compress zstd")
        if not self.allowed(user, f"/vms/{vmid}", "VM.Backup"):
            raise TaskError(f"Permission check failed (/vms/{vmid}, VM.Backup)")
        began = time.time()
        log_line(f"INFO: Starting Backup of VM {vmid} (lxc)")
        log_line(f"INFO: Backup started at {_clock(began)}")
        try:
            volume = await self._back_up(vmid, storage, v)
        except (TaskError, HomelabError, OSError) as error:
            why, *more = str(error).splitlines()
            for line in more:
                log_line(f"INFO: {line}")
            log_line(f"ERROR: Backup of VM {vmid} failed - {why}")
            log_line(f"INFO: Failed at {_clock()}")
            log_line("INFO: Backup job finished with errors")
            raise TaskError("job errors") from error
        log_line(f"INFO: Finished Backup of VM {vmid} ({time.strftime('%H:%M:%S', time.gmtime(time.time() - began))})")
        log_line(f"INFO: Backup finished at {_clock()}")
        self.save_log(volume)
        log_line("INFO: Backup job finished successfully")

    async def _back_up(self, vmid: str, storage: str, v: Mapping[str, Any]) -> str:
        ct = self.ct(int(vmid))
        if ct is None:
            raise TaskError(f"unable to find VM '{vmid}'")
        log_line(f"INFO: status = {ct.status}")
        self._task_lock(ct)
        ct.lock = "backup"
        try:
            mode = self._mode(ct, v.get("mode") or "snapshot")
            volume = self._free_name(storage, ct)
            async with self._stopped(ct, mode):
                log_line(f"INFO: creating vzdump archive '{self._volume_path(storage, volume, 'backup')}'")
                size = await self.dump(ct, volume, mode, render_config(ct.config))
        finally:
            ct.lock = None
        log_line(f"INFO: archive file size: {_size(size)}")
        entry = {"content": "backup", "format": "tar.zst", "size": size, "vmid": ct.vmid, "ctime": created_at(volume)}
        if template := v.get("notes-template"):
            log_line("INFO: adding notes to backup")
            entry["notes"] = (
                template.replace("{{guestname}}", ct.name).replace("{{vmid}}", vmid).replace("{{node}}", ct.node)
            )
        self.storages[storage].setdefault("volumes", {})[volume] = entry
        self.save_volume(volume)
        return volume

    def _mode(self, ct: FakeCt, wanted: str) -> str:
        mode = wanted if ct.status == "running" else "stop"
        log_line(f"INFO: CT Name: {ct.name}")
        log_line("INFO: including mount point rootfs ('/') in backup")
        if mode == "snapshot" and not self._can_snapshot(ct):
            log_line("INFO: mode failure - some volumes do not support snapshots")
            log_line("INFO: trying 'suspend' mode instead")
            mode = "suspend"
        log_line(f"INFO: backup mode: {mode}")
        return mode

    @asynccontextmanager
    async def _stopped(self, ct: FakeCt, mode: str) -> Any:
        """Shut the container down in mode `stop`, and always start it again afterwards."""
        if mode != "stop" or ct.status != "running":
            yield
            return
        log_line("INFO: stopping virtual guest")
        began = time.time()
        await self._ct_powerdown(ct, _SHUTDOWN, False)
        try:
            yield
        finally:
            log_line("INFO: restarting vm")
            await self._start_steps(ct, "root@pam", skiplock=True)
            log_downtime(began)

    def _free_name(self, storage: str, ct: FakeCt) -> str:
        taken, at = self._volumes(storage), time.time()
        while (name := f"backup/vzdump-lxc-{ct.vmid}-{time.strftime(_STAMP, time.localtime(at))}.tar.zst") in taken:
            at += 1
        return name

    # ---------------------------------------------------------- retention

    def _marked(self, v: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = re.fullmatch(r"keep-last=(\d+)", v.get("prune-backups") or "")
        if found is None:
            raise PveError(501, "this node only supports the retention keep-last")
        left: dict[int, int] = {}
        rows = []
        volumes = [
            (entry["ctime"], volume, entry)
            for volume, entry in self._volumes(v["storage"]).items()
            if ARCHIVE.fullmatch(volume) and v.get("vmid") in (None, entry["vmid"])
        ]
        for made, volume, entry in sorted(volumes, key=lambda each: each[:2], reverse=True):
            mark = "protected"
            if not entry.get("protected"):
                left[entry["vmid"]] = left.get(entry["vmid"], int(found[1])) - 1
                mark = "keep" if left[entry["vmid"]] >= 0 else "remove"
            rows.append(
                {"volid": f"{v['storage']}:{volume}", "ctime": made, "type": "lxc", "vmid": entry["vmid"], "mark": mark}
            )
        return rows

    async def _prune_preview(self, user: str, v: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        return self._marked(v)

    async def _prune(self, user: str, v: Mapping[str, Any]) -> str:
        storage, vmid = v["storage"], v.get("vmid")
        if vmid is None:
            self.require(user, f"/storage/{storage}", "Datastore.Allocate")
        else:
            self.require(user, f"/storage/{storage}", "Datastore.AllocateSpace")
            self.require(user, f"/vms/{vmid}", "VM.Backup")

        async def body() -> None:
            for row in self._marked(v):
                if row["mark"] == "remove":
                    log_line(f"removing backup '{row['volid']}'")
                    volume = row["volid"].partition(":")[2]
                    self.storages[storage]["volumes"].pop(volume, None)
                    await asyncio.to_thread(self.delete_volume_files, volume)

        task_id = storage if vmid is None else f"{vmid}@{storage}"
        return str(await self.task(v["node"], "prunebackups", task_id, user, body))

    # ------------------------------------------------------------ restore

    async def _extract_config(self, user: str, v: Mapping[str, Any]) -> str:
        storage, _, volume = v["volume"].partition(":")
        owner = ARCHIVE.fullmatch(volume)
        self._check_access(user, storage, "backup", int(owner[1]) if owner else None, v["volume"])
        try:
            return await self.config_in(v["volume"])
        except TaskError as error:
            raise PveError(500, str(error)) from error

    async def _lxc_create(self, user: str, v: Mapping[str, Any]) -> Any:
        """Create a container; with restore=1, take missing parameters from the backup's configuration."""
        if not v.get("restore") or self.volume_exists(v["ostemplate"]) is not True:
            return await super()._lxc_create(user, v)
        kept = parse_config(await self.config_in(v["ostemplate"]))
        disks = {key for key in kept if re.fullmatch(r"rootfs|(mp|unused)\d+", key)}
        given = {key: value for key, value in kept.items() if key not in _NOT_GIVEN | disks}
        if "rootfs" not in v:  # all disks, onto one storage
            given |= {
                key: _new_disk(v.get("storage") or "local", key, kept[key])
                for key in disks
                if not key.startswith("unused")
            }
        return await super()._lxc_create(user, {**given, **v})

    async def restored(self, ct: FakeCt, volid: str, body: Body) -> str | None:
        """Run the model's part of a restore, and copy the options that have no parameter from the backup."""
        note = await body()
        kept = parse_config(await self.config_in(volid))
        ct.config.update({key: kept[key] for key in ("arch", "ostype") if key in kept})
        return note


def log_downtime(since: float) -> None:
    """Log for how long a guest was frozen or stopped; `since` in seconds since the epoch."""
    seconds = int(time.time() - since)
    log_line(f"INFO: guest is online again after {seconds or '<1'} seconds")


def created_at(volume: str) -> int:
    """Return a backup's time in seconds since the epoch, from its name, which has it in local time."""
    found = ARCHIVE.fullmatch(volume)
    return int(time.mktime(time.strptime(found[2], _STAMP))) if found else 0


def _new_disk(storage: str, key: str, disk: str) -> str:
    """Return the option of a new disk that has the size of a disk in the backup."""
    volume, *properties = disk.split(",")
    if volume.startswith("/"):
        raise PveError(500, f"restoring '{key}' to bind mount is only possible for root")
    sizes = [part for part in properties if part.startswith("size=")]
    size = re.fullmatch(r"size=(\d+)G", sizes[0]) if sizes else None
    return ",".join([f"{storage}:{size[1] if size else 4}", *(part for part in properties if part not in sizes)])


def _clock(at: float | None = None) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _size(size: int) -> str:
    for unit, amount in (("GB", 1 << 30), ("MB", 1 << 20)):
        if size >= amount:
            return f"{size / (1 << 30):.2f}GB" if unit == "GB" else f"{size // amount}{unit}"
    return f"{size // 1024}KB"
