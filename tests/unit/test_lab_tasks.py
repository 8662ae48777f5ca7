"""The node's tasks and records: every task ends with a status, and a killed node recovers its state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from fakepve import TaskError

from homelab.errors import HomelabError
from homelab.lab.records import Records
from homelab.lab.tasks import TaskNode, log_line


async def logs_a_warning() -> None:
    log_line("WARN: Systemd 252 detected. You may need to enable nesting.")


async def logs_from_a_thread() -> str:
    await asyncio.to_thread(log_line, "from a thread")
    return "and a last note"


async def raises_task_error() -> None:
    raise TaskError("CT is locked (backup)")


async def raises_homelab_error() -> None:
    raise HomelabError("startup for container '167' failed", "because\nof this")


async def raises_unexpected_error() -> None:
    raise ZeroDivisionError


def finished(folder: Path, body: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    async def run_to_end() -> dict[str, Any]:
        node = TaskNode(Records(folder))
        node.time_scale = 1.0
        upid = await node.task("pve", "vzstart", 167, "homelab@pve!lab", body)
        assert node.tasks[upid]["status"] == "running"
        while node.tasks[upid]["status"] == "running":
            await asyncio.sleep(0)
        return dict(node.tasks[upid])

    return asyncio.run(run_to_end())


@pytest.mark.parametrize(
    ("body", "exit_status", "log"),
    [
        (
            logs_a_warning,
            "WARNINGS: 1",
            ["WARN: Systemd 252 detected. You may need to enable nesting.", "TASK WARNINGS: 1"],
        ),
        (logs_from_a_thread, "OK", ["from a thread", "and a last note", "TASK OK"]),
        (raises_task_error, "CT is locked (backup)", ["TASK ERROR: CT is locked (backup)"]),
        (
            raises_homelab_error,
            "startup for container '167' failed",
            ["because", "of this", "TASK ERROR: startup for container '167' failed"],
        ),
        (raises_unexpected_error, "unexpected status", ["TASK ERROR: unexpected status"]),
    ],
)
def test_task_status_and_log_match_proxmox(
    tmp_path: Path, body: Callable[[], Awaitable[Any]], exit_status: str, log: list[str]
) -> None:
    task = finished(tmp_path, body)
    assert (task["status"], task["exitstatus"], task["log"]) == ("stopped", exit_status, log)
    assert Records(tmp_path).tasks() == [task]


def test_interrupted_task_gets_unexpected_status(tmp_path: Path) -> None:
    records = Records(tmp_path)
    running = {"upid": "UPID:1", "starttime": 5, "status": "running", "log": ["half"]}
    records.note(running)
    records.note({**running, "upid": "UPID:2"})
    records.note({**running, "upid": "UPID:2", "status": "stopped", "exitstatus": "OK"})
    with (tmp_path / "tasks.jsonl").open("a") as journal:
        journal.write('{"upid": "UPID:3", "star')
    found = {task["upid"]: (task["status"], task["exitstatus"]) for task in records.tasks()}
    assert found == {"UPID:1": ("stopped", "unexpected status"), "UPID:2": ("stopped", "OK")}
    assert records.tasks()[0]["log"] == ["half"]


def test_container_records_are_saved_and_forgotten(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for vmid in (1000, 167, 168):
        records.save(vmid, {"config": {"hostname": f"c{vmid}"}, "pending": {}})
    records.save(167, {"config": {"hostname": "new"}, "pending": {"memory": 1}})
    records.forget(168)
    records.forget(168)
    assert list(records.containers()) == [
        (167, {"config": {"hostname": "new"}, "pending": {"memory": 1}}),
        (1000, {"config": {"hostname": "c1000"}, "pending": {}}),
    ]


def test_boot_is_remembered(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.boot() is None
    records.remember_boot("a")
    assert Records(tmp_path).boot() == "a"
