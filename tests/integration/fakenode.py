"""A Proxmox node in this process: fakepve, with the few things that it lacks against a real one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve import FakePve
from fakepve.certs import make_cert

from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import shipped

TOKEN = "homelab@pve!cli"
TEMPLATES = ("ubuntu-24.04-standard_24.04-2_amd64.tar.zst", "debian-12-standard_12.7-1_amd64.tar.zst")


class FakeNode(FakePve):
    """One node `pve` with the templates and storages that the shipped inventory names."""

    def __init__(self, token_secret: str) -> None:
        super().__init__(host="127.0.0.1", port=0)
        self.nodes = {"pve": {"online": True}}
        self.apitokens = {TOKEN: token_secret}
        self.keys: dict[int, str] = {}  # vmid → the fingerprint that the create's log has named
        self.prints_keys = True
        self.losing: dict[tuple[str, str], int] = {}  # (method, end of the path) → how many answers get lost
        self._starts: set[asyncio.Future[None]] = set()
        for template in TEMPLATES:
            self.store_file("local", template, 1000, content="vztmpl")

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> Any:
        """With answers that get lost on their way back, after the call was carried out."""
        answer = await super()._middleware(request, handler)
        for (method, suffix), left in self.losing.items():
            if left and request.method == method and request.path.endswith(suffix):
                self.losing[method, suffix] -= 1
                assert request.transport is not None
                request.transport.close()
                raise ConnectionResetError("the answer is lost")
        return answer

    async def task(self, node: str, ttype: str, tid: Any, user: str, body: Any, **kwargs: Any) -> str:
        """As on Proxmox, the create's log names the host keys."""
        async def logging() -> str | None:
            note = await body()
            if ttype == "vzcreate":
                record = next(t for t in reversed(self.tasklog) if (t["type"], t["id"]) == (ttype, str(tid)))
                record["log"] += self._key_lines(int(tid), str(self.ct(int(tid)).config["hostname"]))
            return note
        return str(await super().task(node, ttype, tid, user, logging, **kwargs))

    async def _lxc_create(self, user: str, v: Mapping[str, Any]) -> Any:
        """As on Proxmox, start=1 is a task of its own."""
        if v.get("start"):
            self._vm_perm(user, int(v["vmid"]), v.get("pool"), "VM.PowerMgmt")
        upid = await super()._lxc_create(user, {key: value for key, value in v.items() if key != "start"})
        if v.get("start"):
            start = asyncio.ensure_future(self._start_after(upid, user, int(v["vmid"])))
            self._starts.add(start)
            start.add_done_callback(self._starts.discard)
        return upid

    async def _start_after(self, upid: str, user: str, vmid: int) -> None:
        while self.tasks[upid]["status"] == "running":
            await asyncio.sleep(0.005)
        ct = self.ct(vmid)
        if ct is None:
            return

        async def body() -> None:
            await self._start_steps(ct, user)
        await self._ct_task(ct, "vzstart", user, body)

    async def _lxc_pending(self, user: str, v: Mapping[str, Any]) -> list[dict[str, Any]]:
        """As on Proxmox, the digest is among the rows."""
        rows: list[dict[str, Any]] = await super()._lxc_pending(user, v)
        return [*rows, {"key": "digest", "value": self.ct(int(v["vmid"])).digest()}]

    def _key_lines(self, vmid: int, name: str) -> list[str]:
        if not self.prints_keys:
            return []
        lines = []
        for kind in ("rsa", "ed25519", "ecdsa"):
            digest = base64.b64encode(hashlib.sha256(secrets.token_bytes(32)).digest()).decode().rstrip("=")
            if kind == "ed25519":
                self.keys[vmid] = f"SHA256:{digest}"
            lines += [f"Creating SSH host key 'ssh_host_{kind}_key' - this may take some time ...",
                      f"done: SHA256:{digest} root@{name}"]
        return lines

    def calls(self, method: str | None = None) -> list[str]:
        """The calls so far, as `GET /path`, all or those of one method."""
        lines = [(verb, path.removeprefix("/api2/json")) for verb, path, _ in self.requests]
        return [f"{verb} {path}" for verb, path in lines if method in (None, verb)]

    def kinds(self) -> list[str]:
        """The types of the tasks that ran, in order."""
        return [task["type"] for task in self.tasklog]


@contextmanager
def serving(pve: FakePve, certificate: tuple[str, str]) -> Iterator[None]:
    """Serve it over TLS on loopback, in a thread with an event loop of its own."""
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
    """A new certificate for loopback: its files, and its fingerprint."""
    certfile, keyfile, der = make_cert(str(folder), name=name, hosts=("127.0.0.1",))
    return (certfile, keyfile), hashlib.sha256(der).digest().hex(":").upper()


def inventory_for(folder: Path, pve: FakePve, fingerprint: str | None, token_secret: str,
                  overlay: str = "") -> Inventory:
    """The shipped inventory, pointed at this node."""
    path = folder / "inventory.yaml"
    path.write_text(shipped("inventory.yaml").read_text())
    token_file = folder / ".homelab" / "proxmox-token"
    token_file.parent.mkdir(exist_ok=True)
    token_file.write_text(token_secret)
    token_file.chmod(0o600)
    over = folder / "overlay.yaml"
    over.write_text(overlay)
    inventory = load([path, over])
    return replace(inventory, endpoint=replace(inventory.endpoint, host="127.0.0.1", port=pve.port,
                                               fingerprint=fingerprint))
