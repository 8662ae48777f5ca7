"""Clones and templates of real containers: the root is copied with its owners, as Proxmox's full clone does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from fakepve import FakeCt, PveError

from homelab.lab import guest
from homelab.lab.hotplug import ConfigNode, described
from homelab.lab.lxc import Runtime, copy_tree
from homelab.lab.tasks import Body, say


class CloneNode(ConfigNode):
    """The part of the node that clones containers and makes templates of them."""

    async def _lxc_clone(self, user: str, v: Mapping[str, Any]) -> Any:
        source = self._find_ct(v["node"], v["vmid"])
        full = v.get("full", not source.template)
        if not full or v.get("snapname"):
            # What Proxmox says where the storage is a folder with raw images, as this node's first one is.
            volume = str(source.config.get("rootfs", "")).partition(",")[0]
            raise PveError(500, f"Linked clone feature for '{volume}' is not available")
        upid = await super()._lxc_clone(user, {**v, **described(v), "full": 1})
        # As on Proxmox, a clone begins with its source's firewall.
        self.firewall_config("ct", vmid=v["newid"]).update(deepcopy(self.firewall_config("ct", vmid=source.vmid)))
        return upid

    async def _lxc_template(self, user: str, v: Mapping[str, Any]) -> None:
        # Proxmox does not say which task it is: the call answers null.
        await super()._lxc_template(user, v)

    async def _clone(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        source = self.ct(int(values["vmid"]))
        say(f"create full clone of mountpoint rootfs ({str(source.config['rootfs']).partition(',')[0]})")
        try:
            async with self.made_or_gone(ct, "clone failed: "):
                await asyncio.to_thread(copy, self.runtime, source.vmid, ct.vmid)
                await asyncio.to_thread(self.measure.weigh, ct.vmid)
                return await body()
        finally:
            if source.lock == "disk":
                source.lock = None
            self.save(source)


def copy(runtime: Runtime, source: int, target: int) -> None:
    """Copy a stopped container's root. SSH host keys stay the source's; the machine-id is emptied, as by Proxmox."""
    root = runtime.root(target)
    root.parent.mkdir()
    copy_tree(runtime.root(source), root)
    guest.write_inside(root, {"etc/machine-id": b"\n"}, 0o444)
    guest.remove_inside(root, "var/lib/dbus/machine-id")
