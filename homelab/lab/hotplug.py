"""Configuration changes of running containers: limits, addresses, and new network devices apply immediately.

Other changes apply at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Interface
from typing import Any

from fakepve import FakeCt, TaskError

from homelab.errors import HomelabError
from homelab.lab import cgroups, guest
from homelab.lab.command import attempt, run
from homelab.lab.pending import PendingApi, unpluggable
from homelab.lab.tasks import log_line
from homelab.lab.views import ViewNode

# The properties of a network device that change without a new device; FirewallNode handles `firewall`. Proxmox stores
# another `mtu` immediately, but the running container keeps its own.
_HOTPLUGGED = {"ip": "", "gw": "", "firewall": "", "mtu": ""}


class ConfigNode(PendingApi, ViewNode):
    """Mixin that changes containers' configurations."""

    def save(self, ct: FakeCt) -> None:
        """Write a container's record, unless the container was removed."""
        if ct in self.cts:
            self.records.save(ct.vmid, self.record(ct))

    def record(self, ct: FakeCt) -> dict[str, Any]:
        """Return a container's record."""
        return {"config": ct.config, "pending": ct.pending}

    @asynccontextmanager
    async def removed_on_failure(self, ct: FakeCt, failed: str) -> AsyncIterator[None]:
        """Remove the container if the block that creates it fails; its TaskError's text begins with `failed`."""
        try:
            yield
        except (TaskError, HomelabError, OSError) as error:
            await asyncio.to_thread(self.runtime.remove, ct.vmid)
            self._drop(ct)
            why, *more = str(error).splitlines()
            for line in more:
                log_line(line)
            raise TaskError(f"{failed}{why}") from error

    async def _lxc_config_put(self, user: str, v: Mapping[str, Any]) -> Any:
        return await super()._lxc_config_put(user, {**v, **stored_description(v)})

    async def _update_config(self, ct: FakeCt, user: str, values: Any, deletes: Any, reverts: Any) -> None:
        before = dict(ct.config)
        await super()._update_config(ct, user, values, deletes, reverts)
        try:
            if ct.status == "running":
                await self._hotplug(ct, before)
        except (OSError, HomelabError) as error:
            raise unpluggable(ct, before, str(error).splitlines()[0]) from error
        finally:
            self.save(ct)

    async def _hotplug(self, ct: FakeCt, before: Mapping[str, Any]) -> None:
        if any(before.get(key) != ct.config.get(key) for key in ("cores", "memory", "swap")):
            await asyncio.to_thread(cgroups.apply, self.lab.cgroup(ct.vmid), ct.config)
        old, new = guest.network_devices(before), guest.network_devices(ct.config)
        for number in sorted(old.keys() | new.keys()):
            was, now = old.get(number, {}), new.get(number, {})
            if was | _HOTPLUGGED == now | _HOTPLUGGED:
                if (was.get("ip"), was.get("gw")) != (now.get("ip"), now.get("gw")):
                    await asyncio.to_thread(self._readdress, ct.vmid, now)
                continue
            if now and not was:
                await asyncio.to_thread(self._plug, ct.vmid, number, now)
                continue
            # A device that has to be recreated waits for the next start: Proxmox lists it as pending.
            key = f"net{number}"
            ct.pending[key] = ct.config.pop(key, None)
            if key in before:
                ct.config[key] = before[key]

    def _plug(self, vmid: int, number: int, device: Mapping[str, str]) -> None:
        """Connect a new network device to a running container. Raises HomelabError."""
        outside, name = self.runtime.veth(vmid, number), device.get("name", f"eth{number}")
        inside = f"{outside}c"
        run(["ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "address", device["hwaddr"]])
        try:
            run(["ip", "link", "set", outside, "master", device["bridge"], "up"])
            run(["ip", "link", "set", inside, "netns", str(self.runtime.pid(vmid)), "name", name])
        except HomelabError:
            attempt(["ip", "link", "del", outside])
            raise
        self.runtime.inside(vmid, "ip", "link", "set", name, "up", *(["mtu", device["mtu"]] if "mtu" in device else []))
        self._readdress(vmid, device)

    def _readdress(self, vmid: int, device: Mapping[str, str]) -> None:
        name = device.get("name", "eth0")
        self.runtime.inside(vmid, "ip", "-4", "addr", "flush", "dev", name)
        if "/" in device.get("ip", ""):
            self.runtime.inside(vmid, "ip", "addr", "add", str(IPv4Interface(device["ip"])), "dev", name)
        if device.get("gw"):
            self.runtime.inside(vmid, "ip", "route", "replace", "default", "via", device["gw"], "dev", name)


def stored_description(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description as Proxmox stores it, as comment lines: it always ends with a line break."""
    text = values.get("description")
    return {"description": text.rstrip("\n") + "\n"} if text else {}
