"""The node's read calls: the real state and resource usage of containers, node and storage."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from fakepve import FakeCt, PveError

from homelab.lab import cgroups, measure
from homelab.lab.lxc import Runtime
from homelab.lab.measure import Measure
from homelab.lab.settings import Lab
from homelab.lab.tasks import TaskNode

_RESOURCE_FIELDS = ("status", "cpu", "mem", "disk", "uptime", "netin", "netout")


class ViewNode(TaskNode):
    """Mixin that answers read calls."""

    lab: Lab
    runtime: Runtime
    measure: Measure

    def refresh(self, ct: FakeCt) -> None:
        """Update the container's state, which may have changed by a shutdown or reboot from inside."""
        if ct.status == "running" and ct.pid and self.measure.alive(ct.vmid, ct.pid):
            return
        ct.pid = self.runtime.pid(ct.vmid)
        ct.status = "running" if ct.pid else "stopped"
        ct.started_at = measure.started_at(ct.pid) if ct.pid else None
        if ct.pid:
            self.measure.watch(ct.vmid, ct.pid)

    def _find_ct(self, node: str, vmid: Any) -> FakeCt:
        ct = super()._find_ct(node, vmid)
        self._refresh(ct)
        return ct

    def _here(self, v: Mapping[str, Any]) -> FakeCt | None:
        ct = super()._here(v)
        if ct is not None:
            self._refresh(ct)
        return ct

    def _refresh(self, ct: FakeCt) -> None:
        # During a reboot from inside, a container has no init for a moment, but its cgroup exists.
        if ct.status == "running" or (ct.lock_holder is None and cgroups.exists(self.lab.cgroup(ct.vmid))):
            self.refresh(ct)

    async def _lxc_pending(self, user: str, v: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the pending rows, with the digest as one of them, as Proxmox does."""
        rows: list[dict[str, Any]] = await super()._lxc_pending(user, v)
        return [*rows, {"key": "digest", "value": self._find_ct(v["node"], v["vmid"]).digest()}]

    def _status(self, ct: FakeCt) -> dict[str, Any]:
        self._refresh(ct)
        data: dict[str, Any] = super()._status(ct)
        data["cpus"] = self._cpus(ct) if ct.config.get("cores") else os.cpu_count()
        if ct.status == "running":
            data.update(self.measure.container(ct.vmid, int(data["cpus"])))
            data["disk"], fresh = self.measure.disk(ct.vmid)
            if not fresh:
                asyncio.get_running_loop().run_in_executor(None, self.measure.measure_disk, ct.vmid)
        return data

    def ct_resources(self, user: str, kind: str | None = None) -> list[dict[str, Any]]:
        """Return the containers as rows of /cluster/resources."""
        items: list[dict[str, Any]] = super().ct_resources(user, kind)
        for item in items:
            status = self._status(self.ct(item["vmid"]))
            item.update({key: status[key] for key in _RESOURCE_FIELDS})
        return items

    @staticmethod
    def _node_stats(online: bool) -> dict[str, float | int]:
        return measure.machine() if online else {}

    def _space(self, store: Mapping[str, Any]) -> tuple[int, int, int]:
        disk = os.statvfs(self.lab.state_dir)
        total, available = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        return total, total - available, available

    def _storage_resource(self, node: str, name: str) -> dict[str, Any] | None:
        item: dict[str, Any] | None = super()._storage_resource(node, name)
        total, used, _ = self._space(self.storages[name])
        return item and item | {"disk": used, "maxdisk": total}

    def _routes_node(self) -> list[tuple[str, str, Any]]:
        node = "/nodes/{node}"
        return [
            ("GET", f"{node}/status", self._node_status),
            ("GET", f"{node}/time", self._node_time),
            ("GET", f"{node}/network", self._node_network),
        ]

    async def _node_status(self, v: Mapping[str, Any], user: str) -> Any:
        kernel = os.uname()
        return self._complete(
            "/nodes/{node}/status",
            {"current-kernel": {name: getattr(kernel, name) for name in ("sysname", "release", "version", "machine")}},
            node=v["node"],
        )

    async def _node_time(self, v: Mapping[str, Any], user: str) -> Any:
        now = int(time.time())
        return {"time": now, "localtime": now, "timezone": "UTC"}

    async def _node_network(self, v: Mapping[str, Any], user: str) -> Any:
        """Return the lab's bridge, if the user may use it."""
        if not self.allowed(user, f"/sdn/zones/localnetwork/{self.lab.bridge}", "SDN.Use"):
            return []
        return [
            {
                "iface": self.lab.bridge,
                "type": "bridge",
                "active": 1,
                "autostart": 1,
                "method": "static",
                "cidr": str(self.lab.interface),
                "families": ["inet"],
                "priority": 1,
            }
        ]

    async def _lxc_interfaces(self, user: str, v: Mapping[str, Any]) -> Any:
        ct = self._find_ct(v["node"], v["vmid"])
        if ct.status != "running":
            return None
        printed = await asyncio.to_thread(self.runtime.inside, ct.vmid, "ip", "-j", "addr")
        return [_interface(link) for link in json.loads(printed)]

    async def _unsupported(self, user: str, v: Mapping[str, Any]) -> Any:
        raise PveError(501, "this node does not support this call; it only supports the calls of homelab")

    # fakepve only simulates these.
    _lxc_suspend = _lxc_resume = _lxc_migrate = _unsupported


def _interface(link: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an entry of `ip -j addr` to Proxmox's format."""
    addresses = link.get("addr_info", [])
    mac = link.get("address", "")
    return {
        "name": link["ifname"],
        "hwaddr": mac,
        "hardware-address": mac,
        **{address["family"]: f"{address['local']}/{address['prefixlen']}" for address in reversed(addresses)},
        "ip-addresses": [
            {"ip-address-type": address["family"], "ip-address": address["local"], "prefix": str(address["prefixlen"])}
            for address in addresses
        ],
    }
