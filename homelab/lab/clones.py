"""Clones and templates of real containers: a clone copies the root with its owners, as Proxmox's full clone does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fakepve import FakeCt, PveError

from homelab.lab import disks, guest
from homelab.lab.hotplug import ConfigNode, stored_description
from homelab.lab.lxc import Runtime, copy_tree
from homelab.lab.tasks import Body, log_line


class CloneNode(ConfigNode):
    """Mixin that clones containers and turns them into templates."""

    async def _lxc_clone(self, user: str, v: Mapping[str, Any]) -> Any:
        source = self._find_ct(v["node"], v["vmid"])
        full = v.get("full", not source.template)
        if not full or v.get("snapname"):
            # Proxmox's answer for a directory storage with raw images, such as this node's `local`.
            volume = str(source.config.get("rootfs", "")).partition(",")[0]
            raise PveError(500, f"Linked clone feature for '{volume}' is not available")
        if (v.get("storage") or str(source.config.get("rootfs", "")).partition(":")[0]) == disks.STORAGE:
            raise PveError(500, f"this node does not support clones on '{disks.STORAGE}'")
        upid = await super()._lxc_clone(user, {**v, **stored_description(v), "full": 1})
        # As on Proxmox, a clone starts with its source's firewall.
        self.firewall_config("ct", vmid=v["newid"]).update(deepcopy(self.firewall_config("ct", vmid=source.vmid)))
        return upid

    async def _lxc_template(self, user: str, v: Mapping[str, Any]) -> None:
        # As on Proxmox, the answer is null instead of the task's UPID.
        await super()._lxc_template(user, v)

    async def _clone(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        source = self.ct(int(values["vmid"]))
        log_line(f"create full clone of mountpoint rootfs ({str(source.config['rootfs']).partition(',')[0]})")
        try:
            async with self.removed_on_failure(ct, "clone failed: "):
                await asyncio.to_thread(copy, self.runtime, source.vmid, ct.vmid)
                await asyncio.to_thread(self.measure.measure_disk, ct.vmid)
                return await body()
        finally:
            if source.lock == "disk":
                source.lock = None
            self.save(source)


def copy(runtime: Runtime, source: int, target: int) -> None:
    """Copy a stopped container's root. As on Proxmox, keep the SSH host keys and empty the machine-id."""
    root = runtime.root(target)
    root.parent.mkdir()
    copy_tree(runtime.root(source), root)
    guest.write_inside(root, {"etc/machine-id": b"\n"}, 0o444)
    guest.remove_inside(root, "var/lib/dbus/machine-id")
