"""Containers of a fake node with disk content: a folder each, which snapshots copy and rollbacks restore.

A deploy writes `content`; the files `VMID.broken` and `VMID.deadly` next to the folders make it fail or kill it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homelab.commands import deploy as verb
from homelab.errors import HomelabError
from homelab.host import Host
from homelab.model import Container, Inventory, ServiceContext, Step
from homelab.progress import Progress
from homelab.runtime import convergence
from homelab.runtime.convergence import HostReport
from homelab.steps import Command, remote_paths
from tests.integration.fakenode import FakeNode
from tests.support import LocalHost, make_session

NEW = "new\n"


@dataclass
class Disks:
    """The folders of the containers."""

    root: Path

    def of(self, vmid: int) -> Path:
        """Return the folder of a container."""
        return self.root / str(vmid)

    def content(self, vmid: int) -> str:
        """Return the content of a container's disk."""
        return (self.of(vmid) / "content").read_text()

    def put(self, vmid: int, content: str) -> None:
        """Replace the content of a container's disk."""
        self.of(vmid).mkdir(parents=True, exist_ok=True)
        (self.of(vmid) / "content").write_text(content)

    def mark(self, vmid: int, what: str, there: bool = True) -> None:
        """Make a deploy `broken` or `deadly`, or a container `away` after a rollback; `there=False` undoes it."""
        mark = self.root / f"{vmid}.{what}"
        mark.touch() if there else mark.unlink(missing_ok=True)

    def behind(self, pve: FakeNode) -> None:
        """Let the node's snapshot tasks copy and restore the folders."""
        begin = pve.task

        async def task(node: str, kind: str, tid: Any, user: str, body: Any, **more: Any) -> str:
            async def acting() -> str | None:
                note: str | None = await body()
                disk, kept = self.of(int(tid)), self.root / f"{tid}@"
                if kind == "vzsnapshot":
                    shutil.copytree(disk, kept, dirs_exist_ok=True)
                elif kind == "vzrollback":
                    shutil.rmtree(disk)
                    shutil.copytree(kept, disk)
                elif kind == "vzdelsnapshot":
                    shutil.rmtree(kept, ignore_errors=True)
                return note

            return await begin(node, kind, tid, user, acting, **more)

        pve.task = task  # type: ignore[method-assign]


class Dies(Command):
    """A step that kills this process, once."""

    def apply(self, host: Host) -> None:
        """See Step."""
        super().apply(host)
        os.kill(os.getpid(), signal.SIGKILL)


def steps_in(disks: Disks) -> Callable[[ServiceContext], Sequence[Step]]:
    """Return the steps of a deploy: write the content, and check that it works."""

    def steps(context: ServiceContext) -> Sequence[Step]:
        mark, disk = disks.of(context.container.vmid), disks.of(context.container.vmid)
        content = f"{disk}/content"
        written = Command("content", f"grep -qx new {content}", f"echo half >{content}; echo new >{content}")
        return [
            written,
            Dies("deadly", f"[ ! -e {mark}.deadly ]", f"rm {mark}.deadly"),
            Command(
                "works",
                f"[ ! -e {mark}.broken ] || ! grep -qx new {content}",
                f"[ ! -e {mark}.broken ] || {{ echo 'it does not' >&2; false; }}",
                triggered_by=[written],
            ),
        ]

    return steps


@dataclass
class Inside(LocalHost):
    """A container whose disk is a folder of this machine; it does not answer again if it is marked `away`."""

    mark: str = ""

    def reconnect(self, deadline: float) -> None:
        """See Host.reconnect."""
        if Path(f"{self.mark}.away").exists():
            brief = f"Cannot connect to {self.name}: no answer over SSH"
            raise HomelabError(brief, f"It was away for {deadline:.0f} s.", "Look at it.")
        Path(f"{self.mark}.back").touch()

    def close(self) -> None:
        """See Connection.close."""


def deploy(
    inventory: Inventory, disks: Disks, *limit: str, rollback: bool = True, progress: Progress | None = None
) -> Sequence[HostReport]:
    """Run `homelab deploy --rollback-on-failure --limit …` in these containers."""

    def connect(container: Container, *_: object) -> Inside:
        return Inside(container.name, mark=str(disks.of(container.vmid)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convergence, "steps_of", steps_in(disks))
        session = make_session(inventory, progress=progress, connector=connect)
        return verb.deploy(session, limit=limit, rollback=rollback)


def deploy_as_job(inventory: Inventory, limit: Sequence[str]) -> str:
    """Deploy in this process as a job of the fork server. Raises HomelabError if a container has failed."""
    disks = Disks(inventory.path.parent / "disks")
    remote_paths.STATE, remote_paths.RUN = f"{disks.root}/state", f"{disks.root}/run"
    reports = deploy(inventory, disks, *limit)
    if failures := [report for report in reports if report.failure]:
        raise HomelabError(*(f"{report.failure} rolled back: {report.rolled_back}" for report in failures))
    return "deployed"
