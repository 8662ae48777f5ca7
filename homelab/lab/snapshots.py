"""Snapshots of real containers: their root copied beside it, which stands for what btrfs does with a subvolume.

Proxmox's btrfs keeps only what differs. Here a snapshot is as large as the root, unless the machine's own file system
lets copies share their blocks, and the container stands still for as long as the copy takes.
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
from homelab.lab.hotplug import ConfigNode, described
from homelab.lab.lxc import copy_tree, remove_tree
from homelab.lab.tasks import Body, say

STORAGE = "local-btrfs"  # whose containers can have snapshots
# Locks under which a killed node has left a container; on Proxmox `pct unlock` takes them away.
_CUT_OFF = frozenset({"snapshot", "snapshot-delete", "rollback"})
# What the task that we are in has to do in reality.
_WORK: ContextVar[Callable[[], Awaitable[None]] | None] = ContextVar("work", default=None)


class SnapshotNode(ConfigNode):
    """The part of the node that keeps snapshots of containers."""

    def record(self, ct: FakeCt) -> dict[str, Any]:
        """What is remembered of a container, its snapshots included."""
        return {**super().record(ct), "snapshots": ct.snapshots}

    def recall_snapshots(self, ct: FakeCt, record: Mapping[str, Any]) -> None:
        """Take up a container's snapshots, and let it go on if a killed node was working on them. Blocks.

        As on Proxmox, what was cut off stays there, as not whole. A rollback that was cut off did not take place.
        """
        ct.snapshots = dict(record.get("snapshots", {}))
        if ct.lock in _CUT_OFF:
            self.runtime.thaw(ct.vmid)
            root, (new, old) = self.runtime.root(ct.vmid), self._beside(ct.vmid)
            if not root.exists():
                old.rename(root)
            remove_tree(new)
            remove_tree(old)
            ct.lock = None

    async def pause(self, secs: float) -> None:
        """Where fakepve lets the time pass that Proxmox takes, the work is done that takes it."""
        if work := _WORK.get():
            await work()
        else:
            await super().pause(secs)

    async def _lxc_snapshot(self, user: str, v: Mapping[str, Any]) -> Any:
        return await super()._lxc_snapshot(user, {**v, **described(v)})

    async def _lxc_rollback(self, user: str, v: Mapping[str, Any]) -> Any:
        if v.get("start"):
            self._vm_perm(user, int(v["vmid"]), None, "VM.PowerMgmt")
        # fakepve would start it inside the rollback's task; Proxmox starts it in a task of its own.
        return await super()._lxc_rollback(user, {key: value for key, value in v.items() if key != "start"})

    async def take_snapshot(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        """Keep the root as it is now. Raises TaskError."""
        return await self._doing(ct, body, partial(self._keep, ct.vmid, str(values["snapname"])))

    async def remove_snapshot(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        """Remove a kept root, or what there is of it. Raises TaskError."""
        return await self._doing(ct, body, partial(remove_tree, self._kept(ct.vmid, str(values["snapname"]))))

    async def go_back(self, ct: FakeCt, body: Body, name: str) -> str | None:
        """Put a kept root in the place of the container's, which is stopped at once. Raises TaskError."""
        note = await self._doing(ct, body, partial(self._put_back, ct.vmid, name))
        await asyncio.to_thread(self.measure.weigh, ct.vmid)
        return note

    async def _doing(self, ct: FakeCt, body: Body, act: Callable[[], None]) -> str | None:
        """Run fakepve's part of a task, with its checks and its lock, and in the middle of it the real one."""

        async def work() -> None:
            self.save(ct)  # with its lock: a node that is killed now knows what it was doing
            try:
                await asyncio.to_thread(act)
            except (HomelabError, OSError) as error:
                why, *more = str(error).splitlines()
                for line in more:
                    say(line)
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
            say("snapshot create failed: starting cleanup")
            remove_tree(kept)
            raise

    def _put_back(self, vmid: int, name: str) -> None:
        self.runtime.kill(vmid)
        root, (new, old) = self.runtime.root(vmid), self._beside(vmid)
        try:
            copy_tree(self._kept(vmid, name), new)
        except (HomelabError, OSError):
            remove_tree(new)
            raise
        root.rename(old)
        new.rename(root)
        remove_tree(old)  # not before: until then it is the only one that was in use

    def _kept(self, vmid: int, name: str) -> Path:
        return self.runtime.root(vmid).parent / "snapshots" / name

    def _beside(self, vmid: int) -> tuple[Path, Path]:
        """Where the root to come is made ready, and where the one that goes is put."""
        root = self.runtime.root(vmid)
        return root.with_name("rootfs.new"), root.with_name("rootfs.old")
