"""Snapshots and backups of a node in this process, where fakepve differs from Proxmox or only simulates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from fakepve import FakeCt, TaskError

from homelab.lab.backups import BackupApi, log_downtime
from homelab.lab.tasks import log_line, set_log


class Backing(BackupApi):
    """Mixin for snapshots and backups; an archive contains only the configuration."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dump_fails: str | None = None  # the error while an archive is written
        self._archived: dict[str, str] = {}  # volume → the configuration in it
        self._starts: set[asyncio.Future[None]] = set()
        self._restoring: dict[int, str] = {}  # vmid → the backup that it is restored from

    async def task(self, node: str, ttype: str, tid: Any, user: str, body: Any, **kwargs: Any) -> str:
        """Start a task with a log for its body, and restore the options of a backup."""

        async def logging() -> str | None:
            record = next(t for t in reversed(self.tasklog) if (t["type"], t["id"]) == (ttype, str(tid)))
            set_log(record["log"])
            if ttype == "vzrestore":
                volid = self._restoring.pop(int(tid))
                log_line(f"recovering backed-up configuration from '{volid}'")
                log_line(f"restoring '{volid}' now..")
                return await self.restored(self.ct(int(tid)), volid, body)
            note: str | None = await body()
            return note

        return str(await super().task(node, ttype, tid, user, logging, **kwargs))

    async def dump(self, ct: FakeCt, volume: str, mode: str, config: str) -> int:
        """See BackupApi.dump."""
        if mode == "suspend":
            log_line("INFO: suspending guest")
            log_line("INFO: resuming guest")
            log_downtime(time.time())
        await self.pause(self.ct_secs["create"])
        if self.dump_fails:
            raise TaskError(self.dump_fails)
        self._archived[volume] = config
        return 50_000_000

    async def config_in(self, volid: str) -> str:
        """See BackupApi.config_in."""
        return self._archived[volid.partition(":")[2]]

    async def _lxc_create(self, user: str, v: Mapping[str, Any]) -> Any:
        if v.get("restore"):
            self._restoring[int(v["vmid"])] = v["ostemplate"]
        return await super()._lxc_create(user, v)

    async def _lxc_rollback(self, user: str, v: Mapping[str, Any]) -> Any:
        """Roll back ZFS only to the newest snapshot, and start in a separate task, as Proxmox does."""
        ct = self._find_ct(v["node"], v["vmid"])
        volume = str(ct.config.get("rootfs", "")).partition(",")[0]
        names = list(ct.snapshots)
        if self.storages[volume.partition(":")[0]]["type"] == "zfspool" and names[-1:] != [v["snapname"]]:

            async def refuse() -> None:
                raise TaskError(f"can't rollback, '{v['snapname']}' is not most recent snapshot on '{volume}'")

            return await self._ct_task(ct, "vzrollback", user, refuse)
        if v.get("start"):
            self._vm_perm(user, ct.vmid, None, "VM.PowerMgmt")
        upid = await super()._lxc_rollback(user, {key: value for key, value in v.items() if key != "start"})
        if v.get("start"):
            self.start_after(upid, user, ct.vmid)
        return upid

    def start_after(self, upid: str, user: str, vmid: int) -> None:
        """Start the container in a separate task after the given one has succeeded, as Proxmox does with start=1."""
        start = asyncio.ensure_future(self._start_after(upid, user, vmid))
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)

    async def _start_after(self, upid: str, user: str, vmid: int) -> None:
        while self.tasks[upid]["status"] == "running":
            await asyncio.sleep(0.005)
        ct = self.ct(vmid)
        if ct is None or self.tasks[upid]["exitstatus"] != "OK":
            return

        async def body() -> None:
            await self._start_steps(ct, user)

        await self._ct_task(ct, "vzstart", user, body)
