"""A Proxmox node in this process: fakepve with the missing details of a real node."""

from __future__ import annotations

import asyncio
import base64
import copy
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve import FakePve
from fakepve.certs import make_cert

from homelab.inventory import load
from homelab.lab.pending import PendingApi, unpluggable
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.proxmox.privileges import grants
from homelab.proxmox.property_strings import parse
from tests.integration.appliances import Appliances
from tests.integration.fake_backups import Backing

TOKEN = "homelab@pve!cli"
TEMPLATES = ("ubuntu-24.04-standard_24.04-2_amd64.tar.zst", "debian-12-standard_12.7-1_amd64.tar.zst")


class FakeNode(Appliances, PendingApi, Backing):
    """A node `pve` with the templates and storages that the shipped inventory names."""

    def __init__(self, token_secret: str) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.nodes = {"pve": {"online": True}}
        self.apitokens = {TOKEN: token_secret}
        self.keys: dict[int, str] = {}  # vmid → the fingerprint in the create's log
        self.prints_keys = True
        self.logs: dict[str, list[str]] = {}  # task type → lines in the log of such tasks
        self.silent_for = 0.0  # seconds without an answer after the first create
        self._silent_until = 0.0
        self.unpluggable: set[str] = set()  # options that cannot be changed in a running container
        self.losing: dict[tuple[str, str], int] = {}  # (method, end of the path) → number of answers to drop
        self.leases: dict[int, list[str]] = {}  # vmid → addresses by DHCP and SLAAC on net0; missing: the DHCP server's
        self.leases_of_others: dict[int, list[str]] = {}  # the same on further network cards
        self.without_lease = 0  # number of reads that find no such address yet
        self.stays: set[tuple[str, str]] = set()  # (user or token, path) of grants that are not inherited
        for template in TEMPLATES:
            self.store_file("local", template, 1000, content="vztmpl")

    async def _update_config(self, ct: Any, user: str, values: Any, deletes: Any, reverts: Any) -> None:
        """Refuse to change the options in `unpluggable` while the container runs."""
        before = dict(ct.config)
        await super()._update_config(ct, user, values, deletes, reverts)
        if ct.status == "running" and self.unpluggable.intersection(values):
            raise unpluggable(ct, before, "command 'ip link' failed: exit code 1")

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> Any:
        """Carry out the call, then drop its answer if `losing` asks for it."""
        if time.monotonic() < self._silent_until:
            assert request.transport is not None
            request.transport.close()
            raise ConnectionResetError("the API restarts")
        answer = await super()._middleware(request, handler)
        for (method, suffix), left in self.losing.items():
            if left and request.method == method and request.path.endswith(suffix):
                self.losing[method, suffix] -= 1
                assert request.transport is not None
                request.transport.close()
                raise ConnectionResetError("the answer is lost")
        return answer

    async def task(self, node: str, ttype: str, tid: Any, user: str, body: Any, **kwargs: Any) -> str:
        """Log the host keys of a create, and keep the source's keys in a clone, as Proxmox does."""

        async def logging() -> str | None:
            note = await body()
            record = next(t for t in reversed(self.tasklog) if (t["type"], t["id"]) == (ttype, str(tid)))
            record["log"] += self.logs.get(ttype, [])
            if ttype == "vzclone" and int(tid) in self.keys:
                self.keys[kwargs["vm"].vmid] = self.keys[int(tid)]
            if ttype == "vzcreate":
                record["log"] += self._key_lines(int(tid), str(self.ct(int(tid)).config["hostname"]))
            return note

        return str(await super().task(node, ttype, tid, user, logging, **kwargs))

    async def _lxc_create(self, user: str, v: Mapping[str, Any]) -> Any:
        """Start in a separate task with start=1, as Proxmox does."""
        if v.get("start"):
            self._vm_perm(user, int(v["vmid"]), v.get("pool"), "VM.PowerMgmt")
        upid = await super()._lxc_create(user, {key: value for key, value in v.items() if key != "start"})
        if self.silent_for:
            asyncio.get_running_loop().call_later(0.2, self._fall_silent)
        if v.get("start"):
            self.start_after(upid, user, int(v["vmid"]))
        return upid

    def _fall_silent(self) -> None:
        if self.silent_for:  # once, however many creates there are
            self._silent_until, self.silent_for = time.monotonic() + self.silent_for, 0.0

    async def _lxc_clone(self, user: str, v: Mapping[str, Any]) -> Any:
        """Copy the source's firewall to a clone, as Proxmox does."""
        upid = await super()._lxc_clone(user, v)
        self.firewall_config("ct", vmid=v["newid"]).update(copy.deepcopy(self.firewall_config("ct", vmid=v["vmid"])))
        return upid

    async def _lxc_template(self, user: str, v: Mapping[str, Any]) -> None:
        """Answer null instead of the task's UPID, as Proxmox does."""
        await super()._lxc_template(user, v)

    def _drop(self, ct: Any) -> None:
        """Remove a container's firewall and the grants on its path with it, as Proxmox does."""
        super()._drop(ct)
        for who, entries in (self.acl or {}).items():
            self.acl[who] = [(path, privs) for path, privs in entries if path != f"/vms/{ct.vmid}"]
        self._fw()["guests"].pop(ct.vmid, None)

    async def _lxc_pending(self, user: str, v: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the digest as one of the rows, as Proxmox does."""
        rows: list[dict[str, Any]] = await super()._lxc_pending(user, v)
        return [*rows, {"key": "digest", "value": self.ct(int(v["vmid"])).digest()}]

    async def _lxc_interfaces(self, user: str, v: Mapping[str, Any]) -> Any:
        """Add the addresses that a network card gets by DHCP and SLAAC some time after the start, as Proxmox does."""
        rows = await super()._lxc_interfaces(user, v)
        vmid, config = int(v["vmid"]), self.ct(int(v["vmid"])).config
        cards = {option: parse(str(config[option])) for option in config if re.fullmatch(r"net\d+", option)}
        dynamic = {o: card for o, card in cards.items() if {card.get("ip"), card.get("ip6")} & {"dhcp", "auto"}}
        self.without_lease -= bool(dynamic)
        for option, card in dynamic.items() if rows is not None and self.without_lease < 0 else ():
            row = next(row for row in rows if row["name"] == card["name"])
            given = self.leases.get(vmid, [f"192.168.2.{vmid - 50}/24"])
            other = self.leases_of_others.get(vmid, [f"10.20.0.{vmid - 50}/24"])
            for text in ["fe80::be24:11ff:fe00:1/64", *(given if option == "net0" else other)]:
                address, _, prefix = text.partition("/")
                family = "inet6" if ":" in address else "inet"
                row.setdefault(family, text)
                row["ip-addresses"].append({"ip-address-type": family, "ip-address": address, "prefix": prefix})
        return rows

    def _key_lines(self, vmid: int, name: str) -> list[str]:
        if not self.prints_keys:
            return []
        lines = []
        for kind in ("rsa", "ed25519", "ecdsa"):
            digest = base64.b64encode(hashlib.sha256(secrets.token_bytes(32)).digest()).decode().rstrip("=")
            if kind == "ed25519":
                self.keys[vmid] = f"SHA256:{digest}"
            lines += [
                f"Creating SSH host key 'ssh_host_{kind}_key' - this may take some time ...",
                f"done: SHA256:{digest} root@{name}",
            ]
        return lines

    # --------------------------------------------------------- privileges

    def allowed(self, user: str, path: str, priv: str) -> bool:
        """Check a privilege as Proxmox does: roles on a path replace inherited ones, and a user limits its tokens."""
        if self.acl is None or user.split("!")[0] == "root@pam":
            return True
        return priv in self._effective(user, path)

    def _effective(self, user: str, path: str) -> set[str]:
        owner, mark, _ = user.partition("!")
        own = self._of_roles(user, path)
        # If a test grants nothing to the user, the user has all privileges.
        return own & self._of_roles(owner, path) if mark and (self.acl or {}).get(owner) else own

    def _of_roles(self, who: str, path: str) -> set[str]:
        entries = (self.acl or {}).get(who, [])
        held: set[str] = set()
        for place in _ancestors(path):
            here = [
                privs
                for granted, privs in entries
                if granted == place and (place == path or (who, place) not in self.stays)
            ]
            if here:
                held = set().union(*here)
        kind, _, number = path.strip("/").partition("/")
        pools = {f"/pool/{name}" for name, ids in self.pools.items() if kind == "vms" and int(number or 0) in ids}
        return held.union(*(privs for granted, privs in entries if granted in pools))

    async def _permissions(self, v: Mapping[str, Any], user: str) -> dict[str, dict[str, int]]:
        """Return the token's privileges on one path, or on each path of a grant, pool or default, as Proxmox does."""
        if self.acl is None:
            answer: dict[str, dict[str, int]] = await super()._permissions(v, user)
            return answer
        named = {granted for entries in self.acl.values() for granted, _ in entries}
        named |= {f"/vms/{vmid}" for members in self.pools.values() for vmid in members}
        defaults = {"/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"}
        paths = [v["path"]] if v.get("path") else sorted(named | defaults)
        found = {
            path: {priv: int((user, path) not in self.stays) for priv in sorted(self._effective(user, path))}
            for path in paths
        }
        return {path: privs for path, privs in found.items() if privs or v.get("path")}

    def _check_modify_perm(
        self, user: str, vmid: int, pool: str | None, old: Any, new: Any, deletes: Any, unprivileged: bool
    ) -> None:
        """Require the privilege for tags on the container's own path, as Proxmox does, even with a pool."""
        if "tags" in new:
            self._vm_perm(user, vmid, None, "VM.Config.Options")
        super()._check_modify_perm(user, vmid, pool, old, new, deletes, unprivileged)

    def _check_bridge(self, user: str, net: str) -> None:
        """Accept a privilege on the VLAN in place of one on its bridge, as Proxmox does."""
        properties = dict(part.split("=", 1) for part in net.split(",") if "=" in part)
        if bridge := properties.get("bridge"):
            path = f"/sdn/zones/localnetwork/{bridge}"
            self.require(user, f"{path}/{properties['tag']}" if "tag" in properties else path, "SDN.Use")

    def grant_least(self, inventory: Inventory, without: str = "", path: str = "") -> None:
        """Grant the privileges of `homelab init` to the token and its user.

        `without` is a privilege that is left out, on all paths or only on `path`.
        """
        self.acl = {}
        for place, roles in grants(inventory).items():
            kept = [each for role in roles for each in role.privileges if each != without or path not in ("", place)]
            for who in (TOKEN, TOKEN.partition("!")[0]):
                self.grant(who, place, *kept)
                if place == "/":
                    self.stays.add((who, place))

    def calls(self, method: str | None = None) -> list[str]:
        """Return the calls so far as `GET /path`, all or those of one method."""
        lines = [(verb, path.removeprefix("/api2/json")) for verb, path, _ in self.requests]
        return [f"{verb} {path}" for verb, path in lines if method in (None, verb)]

    def kinds(self) -> list[str]:
        """Return the types of the tasks so far, in order."""
        return [task["type"] for task in self.tasklog]


def _ancestors(path: str) -> list[str]:
    """Return a path's ancestors and the path itself, from the top down."""
    parts = path.strip("/").split("/")
    return ["/", *("/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1) if parts != [""])]


@contextmanager
def serving(pve: FakePve, certificate: tuple[str, str]) -> Iterator[None]:
    """Serve a node over TLS on loopback, in a thread with its own event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fakepve", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(pve.start(*certificate), loop).result(10)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(pve.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def certificate(folder: Path, name: str = "pve") -> tuple[tuple[str, str], str]:
    """Create a certificate for loopback and return its files and fingerprint."""
    certfile, keyfile, der = make_cert(str(folder), name=name, hosts=("127.0.0.1",))
    return (certfile, keyfile), hashlib.sha256(der).digest().hex(":").upper()


def inventory_for(
    folder: Path, pve: FakePve, fingerprint: str | None, token_secret: str, overlay: str = ""
) -> Inventory:
    """Load the shipped inventory for this node."""
    path = folder / "inventory.yaml"
    path.write_text(bundled_path("inventory.yaml").read_text())
    token_file = folder / ".homelab" / "proxmox-token"
    token_file.parent.mkdir(exist_ok=True)
    token_file.write_text(token_secret)
    token_file.chmod(0o600)
    over = folder / "overlay.yaml"
    over.write_text(overlay)
    inventory = load([path, over])
    return replace(
        inventory, endpoint=replace(inventory.endpoint, host="127.0.0.1", port=pve.port, fingerprint=fingerprint)
    )
