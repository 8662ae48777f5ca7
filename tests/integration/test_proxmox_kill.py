"""`kill -9` at every API call of `up` and `destroy`: the next run completes the work, and nothing is created twice."""

from __future__ import annotations

import copy
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from homelab.known_hosts import KnownHosts
from homelab.model import Inventory
from tests.integration.fakenode import FakeNode, inventory_for, serving
from tests.integration.fork_server import Ended, ForkServer, Job, runner
from tests.integration.test_proxmox_up import SECRET
from tests.integration.test_proxmox_up import pair as pair

ONE = ("postgres-data",)
CHANGED = """
network: {nameservers: [.1]}
containers: {postgres-data: {disk: 20, memory: 4096}}
"""
RANGE = """
defaults: {vmid_range: 200-210}
containers:
  postgres-data: {vmid: null, mounts: {/srv/archive: 4}}
  analytics-platform: {vmid: null}
  airflow-orchestration: {vmid: null}
"""
KEPT = ("known_hosts.json", "vmids.json")  # homelab's own records of its containers


class DeadlyNode(FakeNode):
    """A node that kills its client at a call, before the call takes effect or between effect and answer."""

    def __init__(self) -> None:
        super().__init__(SECRET)
        self.time_scale = 1.0
        self.ct_secs |= {"create": 0.03, "destroy": 0.03, "resize": 0.03}
        self.victim: int | None = None  # the client's process id, once known
        self.deadly = 0  # the number of the call, from 1; 0 is none
        self.acts = False  # the call still takes effect
        self.count = 0
        self.hit = ""  # the call at which the client was killed

    def aim(self, number: int, acts: bool) -> None:
        """Set the call at which to kill the client."""
        self.victim, self.deadly, self.acts, self.count, self.hit = None, number, acts, 0, ""

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> Any:
        self.count += 1
        if self.count != self.deadly:
            return await super()._middleware(request, handler)
        answer = await super()._middleware(request, handler) if self.acts else None
        self.hit = f"{request.method} {request.path.removeprefix('/api2/json')}"
        while self.victim is None:
            await self._short_pause()
        os.kill(self.victim, signal.SIGKILL)
        assert request.transport is not None
        request.transport.close()
        raise ConnectionResetError(f"killed instead of {answer}")

    async def _short_pause(self) -> None:
        await self.pause(0.001)


@dataclass
class Scene:
    """A node, its inventory, and processes that work on it."""

    pve: DeadlyNode
    inventory: Inventory
    changed: Inventory
    runner: ForkServer
    pins: KnownHosts = field(init=False)

    def __post_init__(self) -> None:
        self.pins = KnownHosts.of(self.inventory.state_dir)

    def run(self, verb: str, *limit: str, changed: bool = False, deadly: int = 0, acts: bool = False) -> Ended:
        """Run a verb in a separate process to its end, or to its deadly call."""
        self.pve.aim(deadly, acts)
        self.pve.victim = self.runner.begin(Job(verb, self.changed if changed else self.inventory, limit))
        return self.runner.end()

    def succeeds(self, verb: str, *limit: str, changed: bool = False) -> str:
        """Run a verb that has to succeed and return its output."""
        ended = self.run(verb, *limit, changed=changed)
        assert ended.status == 0, ended.said
        return ended.said

    def state(self) -> Any:
        """Return the state of all containers, without values that differ in every run."""
        assert {name: pin.fingerprint for name, pin in self.pins.pins().items()} == {
            ct.config["hostname"]: self.pve.keys[ct.vmid] for ct in self.pve.cts if ct.vmid in self.pve.keys
        }
        return {
            ct.vmid: (
                re.sub(r"hwaddr=[^,]*", "hwaddr=…", repr(sorted(ct.config.items()))),
                ct.status,
                ct.lock,
                ct.pending,
            )
            for ct in self.pve.cts
        }

    def did(self) -> Counter[tuple[str, str, str]]:
        """Count the tasks by (kind, vmid, exit status)."""
        until = time.monotonic() + 5
        while any("exitstatus" not in task for task in self.pve.tasklog) and time.monotonic() < until:
            time.sleep(0.005)
        return Counter((task["type"], task["id"], task.get("exitstatus", "running")) for task in self.pve.tasklog)

    def kept(self) -> dict[str, bytes]:
        """Read homelab's own records."""
        folder = self.inventory.state_dir
        return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}

    def keep(self, kept: dict[str, bytes]) -> None:
        """Restore homelab's own records."""
        for name in KEPT:
            (self.inventory.state_dir / name).unlink(missing_ok=True)
        for name, content in kept.items():
            (self.inventory.state_dir / name).write_bytes(content)


@contextmanager
def scene(folder: Path, pair: tuple[tuple[str, str], str], overlay: str = CHANGED) -> Iterator[Scene]:
    """Yield an empty scene, with an overlay in its changed inventory."""
    pve = DeadlyNode()
    folder.mkdir()
    with serving(pve, pair[0]), runner() as processes:
        changed = inventory_for(folder, pve, pair[1], SECRET, overlay)
        yield Scene(pve, inventory_for(folder, pve, pair[1], SECRET), changed, processes)


@dataclass(frozen=True)
class Story:
    """A verb to kill, and the state that it starts from."""

    verb: str
    begin: Callable[[Scene], None]
    nothing_left: str
    limit: tuple[str, ...] = ()
    changed: bool = False
    overlay: str = CHANGED


def kill_at_every_call(place: Scene, story: Story, acts: bool) -> set[str]:
    """Kill a run at each of its calls in turn until one completes; each time the next run completes the work.

    Return the changing calls at which a run was killed.
    """
    story.begin(place)
    stage, kept = copy.deepcopy((place.pve.cts, place.pve.keys)), place.kept()
    place.pve.tasklog.clear()
    place.succeeds(story.verb, *story.limit, changed=story.changed)
    wanted, once = place.state(), place.did()
    hit: set[str] = set()
    for number in range(1, 1000):
        place.pve.cts, place.pve.keys = copy.deepcopy(stage)
        place.keep(kept)
        place.pve.tasklog.clear()
        ended = place.run(story.verb, *story.limit, changed=story.changed, deadly=number, acts=acts)
        at = place.pve.hit
        assert ended.status == (-signal.SIGKILL if at else 0), (number, at, ended)
        place.succeeds(story.verb, *story.limit, changed=story.changed)
        assert place.state() == wanted, (number, at)
        assert place.did() == once, (number, at)
        if not at:
            return hit
        if not at.startswith("GET"):
            assert place.succeeds(story.verb, *story.limit, changed=story.changed).startswith(story.nothing_left)
            hit.add(re.sub(r"lxc/\d+", "lxc/VMID", at))
    raise AssertionError("no run completed")


def empty(_: Scene) -> None:
    """Start without containers."""


def with_all_containers(place: Scene) -> None:
    """Start with all three containers and a foreign one."""
    place.succeeds("up")
    place.pve.add_ct(500, "paperless", node="pve")


UP = Story("up", empty, "Nothing to do: 3 containers match")
CHANGES = Story("up", with_all_containers, "Nothing to do: postgres-data matches", limit=ONE, changed=True)
VMIDS = Story("up", empty, "Nothing to do: postgres-data matches", limit=ONE, changed=True, overlay=RANGE)
DESTROY = Story("destroy", with_all_containers, "Nothing to do: none of the lab's containers exists")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("story", "calls"),
    [
        (UP, {"POST /nodes/pve/lxc"}),
        (
            CHANGES,
            {
                "PUT /nodes/pve/lxc/VMID/config",
                "PUT /nodes/pve/lxc/VMID/resize",
                "POST /nodes/pve/lxc/VMID/status/shutdown",
                "POST /nodes/pve/lxc/VMID/status/start",
            },
        ),
        (VMIDS, {"POST /nodes/pve/lxc"}),
        (DESTROY, {"DELETE /nodes/pve/lxc/VMID"}),
    ],
    ids=["up", "changes", "vmids", "destroy"],
)
def test_killed_at_every_call(
    story: Story, calls: set[str], tmp_path: Path, pair: tuple[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOMELAB_PROXMOX_TOKEN", raising=False)

    def act(acts: bool) -> set[str]:
        with scene(tmp_path / f"{'after' if acts else 'before'}", pair, story.overlay) as place:
            return kill_at_every_call(place, story, acts)

    with ThreadPoolExecutor(2) as both:
        assert list(both.map(act, (False, True))) == [calls, calls]
