"""Snapshots of real containers: copies of their root, in place of btrfs subvolumes.

Proxmox's btrfs stores only the differences. Here a snapshot is as large as the root, unless this machine's file system
lets copies share their blocks, and the container is frozen for the duration of the copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from fakepve import FakeCt, TaskError

from homelab.errors import HomelabError
from homelab.lab.hotplug import ConfigNode, stored_description
from homelab.lab.lxc import copy_tree, remove_tree
from homelab.lab.tasks import Body, log_line

STORAGE = "local-btrfs"  # the storage that supports snapshots
# Locks that a killed node can leave behind; on Proxmox `pct unlock` removes them.
_CUT_OFF = frozenset({"snapshot", "snapshot-delete", "rollback"})
# The work on the real container that belongs to the current task.
_WORK: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("work", default=None)


class SnapshotNode(ConfigNode):
    """Mixin for snapshots of containers."""

    def record(self, ct: FakeCt) -> dict[str, Any]:
        """Return a container's record, including its snapshots."""
        return {**super().record(ct), "snapshots": ct.snapshots}

    def load_snapshots(self, ct: FakeCt, record: Mapping[str, Any]) -> None:
        """Load a container's snapshots, and unfreeze and unlock it if a killed node was working on them. Blocks.

        As on Proxmox, an interrupted snapshot stays listed as unfinished. An interrupted rollback is undone.
        """
        ct.snapshots = dict(record.get("snapshots", {}))
        if ct.lock in _CUT_OFF:
            self.runtime.unfreeze(ct.vmid)
            root, (new, old) = self.runtime.root(ct.vmid), self._swap_paths(ct.vmid)
            if not root.exists():
                old.rename(root)
            remove_tree(new)
            remove_tree(old)
            ct.lock = None

    async def pause(self, secs: float) -> None:
        """Do the real work at the point where fakepve only simulates its duration."""
        if work := _WORK.get():
            await work()
        else:
            await super().pause(secs)

    async def _lxc_snapshot(self, user: str, v: Mapping[str, Any]) -> Any:
        return await super()._lxc_snapshot(user, {**v, **stored_description(v)})

    async def _lxc_rollback(self, user: str, v: Mapping[str, Any]) -> Any:
        if v.get("start"):
            self._vm_perm(user, int(v["vmid"]), None, "VM.PowerMgmt")
        # fakepve would start it inside the rollback task; Proxmox uses a separate task.
        return await super()._lxc_rollback(user, {key: value for key, value in v.items() if key != "start"})

    async def take_snapshot(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        """Copy the current root. Raises TaskError."""
        return await self._doing(ct, body, partial(self._keep, ct.vmid, str(values["snapname"])))

    async def remove_snapshot(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        """Remove a copied root, complete or not. Raises TaskError."""
        return await self._doing(ct, body, partial(remove_tree, self._kept(ct.vmid, str(values["snapname"]))))

    async def roll_back(self, ct: FakeCt, body: Body, name: str) -> str | None:
        """Kill the container and replace its root by a snapshot's. Raises TaskError."""
        note = await self._doing(ct, body, partial(self._put_back, ct.vmid, name))
        await asyncio.to_thread(self.measure.measure_disk, ct.vmid)
        return note

    async def _doing(self, ct: FakeCt, body: Body, act: Callable[[], None]) -> str | None:
        """Run fakepve's task body with its checks and lock; in the middle of it, work on the real container."""

        async def work() -> None:
            self.save(ct)  # with its lock, which load_snapshots needs after a kill
            try:
                await asyncio.to_thread(act)
            except (HomelabError, OSError) as error:
                why, *more = str(error).splitlines()
                for line in more:
                    log_line(line)
                raise TaskError(why) from error

        token = _WORK.set(work)
        try:
            return await body()
        finally:
            _WORK.reset(token)

    def _keep(self, vmid: int, name: str) -> None:
        kept = self._kept(vmid, name)
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            with self.runtime.frozen(vmid):
                copy_tree(self.runtime.root(vmid), kept)
        except (HomelabError, OSError):
            log_line("snapshot create failed: starting cleanup")
            remove_tree(kept)
            raise

    def _put_back(self, vmid: int, name: str) -> None:
        self.runtime.kill(vmid)
        root, (new, old) = self.runtime.root(vmid), self._swap_paths(vmid)
        try:
            copy_tree(self._kept(vmid, name), new)
        except (HomelabError, OSError):
            remove_tree(new)
            raise
        root.rename(old)
        new.rename(root)
        remove_tree(old)  # only now: recovery needs it after a kill between the two renames

    def _kept(self, vmid: int, name: str) -> Path:
        return self.runtime.root(vmid).parent / "snapshots" / name

    def _swap_paths(self, vmid: int) -> tuple[Path, Path]:
        """Return the temporary paths of the new and of the old root."""
        root = self.runtime.root(vmid)
        return root.with_name("rootfs.new"), root.with_name("rootfs.old")
