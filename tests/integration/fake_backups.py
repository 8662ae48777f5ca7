"""Snapshots and backups of a node in this process, where fakepve answers otherwise than Proxmox, or only pretends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from fakepve import FakeCt, TaskError

from homelab.lab.backups import BackupApi, online_again
from homelab.lab.tasks import say, say_to


class Backing(BackupApi):
    """The part of a node that keeps snapshots and backups; an archive is its configuration alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dump_fails: str | None = None  # what goes wrong while an archive is written
        self._archived: dict[str, str] = {}  # volume → the configuration in it
        self._starts: set[asyncio.Future[None]] = set()
        self._restoring: dict[int, str] = {}  # vmid → the backup that it is being made from

    async def task(self, node: str, ttype: str, tid: Any, user: str, body: Any, **kwargs: Any) -> str:
        """With a log that bodies may write to, and what a restore takes from its backup."""

        async def logging() -> str | None:
            record = next(t for t in reversed(self.tasklog) if (t["type"], t["id"]) == (ttype, str(tid)))
            say_to(record["log"])
            if ttype == "vzrestore":
                volid = self._restoring.pop(int(tid))
                say(f"recovering backed-up configuration from '{volid}'")
                say(f"restoring '{volid}' now..")
                return await self.restored(self.ct(int(tid)), volid, body)
            note: str | None = await body()
            return note

        return str(await super().task(node, ttype, tid, user, logging, **kwargs))

    async def dump(self, ct: FakeCt, volume: str, mode: str, config: str) -> int:
        """See BackupApi.dump."""
        if mode == "suspend":
            say("INFO: suspending guest")
            say("INFO: resuming guest")
            online_again(time.time())
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
        """As on Proxmox, ZFS only goes back to the newest snapshot, and the start is a task of its own."""
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
        """As on Proxmox, the start of start=1 is a task of its own, when that one has ended well."""
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
