"""The Proxmox-compatible node: fakepve's API, with task bodies that work on real LXC containers."""

from __future__ import annotations

import asyncio
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve import FakeCt, PveError, TaskError
from fakepve.shapes import ROLES

from homelab.errors import HomelabError
from homelab.lab import disks, guest, network
from homelab.lab.appliances import ApplianceNode
from homelab.lab.archives import BackupNode
from homelab.lab.clones import CloneNode
from homelab.lab.host_firewall import FirewallNode
from homelab.lab.hotplug import stored_description
from homelab.lab.lxc import Runtime
from homelab.lab.measure import Measure
from homelab.lab.process import boot_id
from homelab.lab.records import Records
from homelab.lab.settings import NODE, TOKEN_ID, Lab
from homelab.lab.snapshots import STORAGE as SNAPSHOTS
from homelab.lab.tasks import Body, log_line
from homelab.roles import BRIDGE, CONTAINERS, POOL, STORAGE, TEMPLATES
from homelab.roles import NODE as NODE_ROLE
from homelab.services.pve_exporter import ACCOUNT

# The privileges that `homelab init` grants for an inventory, and those of the other verbs, on every path of this node.
PRIVILEGES = {
    "/": NODE_ROLE.all_privileges,
    "/nodes": NODE_ROLE.all_privileges,
    "/vms": CONTAINERS.all_privileges,
    "/storage/local": (*STORAGE.all_privileges, *TEMPLATES.all_privileges),
    f"/storage/{SNAPSHOTS}": STORAGE.all_privileges,
    f"/storage/{disks.STORAGE}": STORAGE.all_privileges,
    "/pool": POOL.all_privileges,
}
_START = "start after create"
# The parameters of the request that a task belongs to: fakepve does not pass them to its task bodies.
_VALUES: ContextVar[Mapping[str, Any]] = ContextVar("values")


class LabNode(FirewallNode, CloneNode, BackupNode, ApplianceNode):
    """A node with real containers, a directory storage, one that supports snapshots, and one that enforces sizes."""

    def __init__(self, lab: Lab, templates: Sequence[Path], token: str, monitoring_token: str = "") -> None:
        super().__init__(
            Records(lab.records),
            user="root@pam",
            password=secrets.token_urlsafe(32),
            host="127.0.0.1",
            port=lab.api_port,
        )
        self.lab = lab
        self.runtime = Runtime(lab)
        self.measure = Measure(self.runtime)
        self.time_scale = 1.0
        self.max_requests = 1000
        self.nodes = {NODE: {"online": True}}
        self.version, self.release_version = "9.0.10", "9.0"
        self.storages = {
            "local": {
                "type": "dir",
                "active": 1,
                "content": "rootdir,images,vztmpl,backup,iso,snippets",
                "files": set(),
                "path": str(lab.state_dir),
                "volumes": {},
            },
            SNAPSHOTS: {
                "type": "btrfs",
                "active": 1,
                "content": "rootdir,images",
                "files": set(),
                "path": str(lab.state_dir),
                "volumes": {},
            },
        }
        self.storages[disks.STORAGE] = {**self.storages[SNAPSHOTS], "type": "dir", "files": set(), "volumes": {}}
        self.register_templates(templates)
        self.apitokens = {TOKEN_ID: token, **({ACCOUNT: monitoring_token} if monitoring_token else {})}
        for path, privileges in PRIVILEGES.items():
            self.grant(TOKEN_ID, path, *privileges)
        self.grant(TOKEN_ID, f"/sdn/zones/localnetwork/{lab.bridge}", *BRIDGE.all_privileges)
        self.grant(ACCOUNT, "/", *ROLES["PVEAuditor"])

    async def listen_for_containers(self) -> None:
        """Serve the API at the bridge's address, too; nftables admits only the containers to it."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.lab.certificate, self.lab.certificate.with_suffix(".key"))
        await web.TCPSite(self.runner, str(self.lab.gateway), self.lab.api_port, ssl_context=context).start()

    # ---------------------------------------------------------- recovery

    def recover(self) -> None:
        """Load the state that an earlier node process recorded. Blocks."""
        for vmid, record in self.records.containers():
            # On Proxmox an interrupted create or destroy leaves a locked container until `pct unlock`. This node has
            # no such command, so the container is removed here.
            if record["config"].get("lock") in ("create", "destroyed"):
                self.runtime.remove(vmid)
                self.records.forget(vmid)
                continue
            ct = FakeCt(vmid, node=NODE, config=record["config"], pending=record["pending"], defaults=False)
            self.cts.append(ct)
            self.load_firewall(vmid, record)
            self.load_snapshots(ct, record)
            self.unfreeze(ct)
            self.refresh(ct)
            self.runtime.guard(vmid, self.filter_of(ct), ct.status == "running")
        for vmid in set(self.runtime.known()) - {ct.vmid for ct in self.cts}:
            self.runtime.remove(vmid)
        self.load_backups()

    def _drop(self, ct: FakeCt) -> None:
        super()._drop(ct)
        self.records.forget(ct.vmid)
        self.measure.forget(ct.vmid)

    # ------------------------------------------------------------- tasks

    def _lxc_handler(self, fn: Callable[[str, Mapping[str, Any]], Awaitable[Any]]) -> Any:
        async def remembering(user: str, values: Mapping[str, Any]) -> Any:
            _VALUES.set(values)
            return await fn(user, values)

        return super()._lxc_handler(remembering)

    async def task(
        self, node: str, ttype: str, tid: Any, user: str, body: Body, vm: Any = None, lock: bool = True, log: Any = ()
    ) -> str:
        """Start a task; tasks that change a container change the real one first, then fakepve's model."""
        work = {
            "vzcreate": self._create,
            "vzclone": self._clone,
            "vzrestore": self._restore,
            "vzstop": self._stop,
            "vzdestroy": self._destroy,
            "vzsnapshot": self.take_snapshot,
            "vzdelsnapshot": self.remove_snapshot,
            "vzrollback": self._rollback,
            "resize": self._resize,
        }.get(ttype)
        real = body
        if work and vm is not None:
            values = _VALUES.get()

            async def real() -> str | None:
                return await work(vm, user, values, body)

        async def recorded() -> str | None:
            try:
                return await real()
            finally:
                if vm is not None:
                    self.save(vm)

        if vm is not None:
            self.save(vm)
        return await super().task(node, ttype, tid, user, recorded, vm, lock, log)

    async def _create(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        name = str(values.get("hostname") or f"CT{ct.vmid}")
        async with self.removed_on_failure(ct, f"unable to create CT {ct.vmid} - "):
            if (template := self.templates.get(values["ostemplate"])) is None:
                raise TaskError(f"volume '{values['ostemplate']}' does not exist")
            await asyncio.to_thread(self.runtime.make_root, ct.vmid, disks.disk_size(values.get("rootfs", "")))
            await asyncio.to_thread(
                self.runtime.create,
                ct.vmid,
                name,
                template,
                str(values.get("ssh-public-keys") or ""),
                values.get("password"),
                log_line,
            )
            await asyncio.to_thread(self.measure.measure_disk, ct.vmid)
        note = await body()
        if values.get(_START):
            await self._start_task(ct, user)
        return note

    async def _restore(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        note = await self.unpack_backup(ct, str(values["ostemplate"]), body)
        if values.get(_START):
            await self._start_task(ct, user)
        return note

    async def _resize(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        note = await body()
        if size := disks.disk_size(ct.config["rootfs"]):
            root, running = self.runtime.root(ct.vmid), ct.status == "running"
            try:
                message = await asyncio.to_thread(disks.grow_disk, root, size, running=running)
            except HomelabError as error:
                raise TaskError(str(error)) from error
            for line in message.splitlines():
                log_line(line)
        return note

    async def _rollback(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        note = await self.roll_back(ct, body, str(values["snapname"]))
        if values.get("start"):
            await self._start_task(ct, user)
        return note

    async def _lxc_create(self, user: str, v: Mapping[str, Any]) -> Any:
        refused = [key for key in v if re.fullmatch(r"mp\d+|dev\d+", key)] + [
            key for key in ("ha-managed",) if v.get(key)
        ]
        if v.get("restore") and v.get("storage") == disks.STORAGE:
            raise PveError(500, f"this node does not support restores to '{disks.STORAGE}'")
        if refused or v.get("unprivileged") == 0:
            raise PveError(500, f"this node does not support {', '.join(refused) or 'privileged containers'}")
        if v.get("start"):
            self._vm_perm(user, int(v["vmid"]), v.get("pool"), "VM.PowerMgmt")
        # fakepve would start it inside the create task; Proxmox uses a separate task.
        values = {key: value for key, value in v.items() if key != "start"} | stored_description(v)
        _VALUES.set({**values, _START: v.get("start")})
        return await super()._lxc_create(user, values)

    async def start_after_boot(self) -> None:
        """Start the containers with `onboot` after a boot of this machine, one after the other in start order."""
        if self.records.boot() == boot_id():
            return

        async def body() -> None:
            for ct in sorted((ct for ct in self.cts if ct.config.get("onboot") == 1), key=_boot_order):
                log_line(f"Starting CT {ct.vmid}")
                if ct.status != "running":
                    upid = await self._start_task(ct, "root@pam")
                    while self.tasks[upid]["status"] == "running":
                        await asyncio.sleep(0.05)
            # Recorded last: if this node is killed before, the next one starts the remaining containers.
            self.records.remember_boot(boot_id())

        await self.task(NODE, "startall", "", "root@pam", body, lock=False)

    async def _start_task(self, ct: FakeCt, user: str) -> str:
        return await self.task(ct.node, "vzstart", ct.vmid, user, lambda: self._start_steps(ct, user), vm=ct)

    async def _start_steps(self, ct: FakeCt, user: str, skiplock: bool = False) -> None:
        if ct.template:
            raise TaskError("you can't start a CT if it's a template")
        if not skiplock:
            self._task_lock(ct, allow=("mounted",))
        self._apply(ct)
        for device in guest.network_devices(ct.config).values():
            if not await asyncio.to_thread(network.bridge_exists, device.get("bridge", "")):
                raise TaskError(f"bridge '{device.get('bridge')}' does not exist")
        if guest.parse_properties(str(ct.config.get("features", ""))).get("nesting") != "1":
            log_line("WARN: Systemd 252 detected. You may need to enable nesting.")
        await asyncio.to_thread(self.runtime.start, ct.vmid, dict(ct.config), self.filter_of(ct))
        self.refresh(ct)

    async def _stop(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        if not values.get("skiplock"):
            self._task_lock(ct, allow=("mounted",))
        await asyncio.to_thread(self.runtime.kill, ct.vmid)
        return await body()

    async def _ct_powerdown(self, ct: FakeCt, timeout: int, force: bool) -> None:
        if not await asyncio.to_thread(self.runtime.shutdown, ct.vmid, timeout):
            if not force:
                log_line(f"command 'lxc-stop -n {ct.vmid} --nokill --timeout {timeout}' failed: exit code 1")
                raise TaskError("container did not stop")
            await asyncio.to_thread(self.runtime.kill, ct.vmid)
        await asyncio.to_thread(self.runtime.tidy, ct.vmid)
        ct.status, ct.pid = "stopped", None

    async def _destroy(self, ct: FakeCt, user: str, values: Mapping[str, Any], body: Body) -> str | None:
        if ct.config.get("protection"):
            raise TaskError(f"can't remove CT {ct.vmid} - protection mode enabled")
        self._task_lock(ct)
        self.refresh(ct)
        if ct.status == "running" and not values.get("force"):
            return await body()
        ct.lock = "destroyed"
        self.save(ct)
        if values.get("purge"):
            log_line(f"purging CT {ct.vmid} from related configurations..")
        await asyncio.to_thread(self.runtime.remove, ct.vmid)
        ct.status, ct.pid, ct.lock = "stopped", None, None
        return await body()


def _boot_order(ct: FakeCt) -> tuple[float, int]:
    order = guest.parse_properties(str(ct.config.get("startup", ""))).get("order")
    return (float(order) if order else float("inf"), ct.vmid)
