"""Proxmox's tasks: every task ends with a status, has a log for its body, and is recorded in a journal on disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from fakepve import FakePve, TaskError
from fakepve.server import USER, params

from homelab.errors import HomelabError
from homelab.lab.records import Records

Body = Callable[[], Awaitable[str | None]]
_LOG: ContextVar[list[str]] = ContextVar("log")


def log_line(line: str) -> None:
    """Add a line to the current task's log, also from threads started by `asyncio.to_thread`."""
    _LOG.get().append(line)


def set_log(log: list[str]) -> None:
    """Set the log that `log_line` writes to in the current asyncio task."""
    _LOG.set(log)


def task_log() -> Sequence[str]:
    """Return the current task's log so far."""
    return tuple(_LOG.get())


class TaskNode(FakePve):  # type: ignore[misc]
    """Mixin that runs tasks."""

    def __init__(self, records: Records, **options: Any) -> None:
        super().__init__(**options)
        self.records = records
        self._jobs: set[asyncio.Task[None]] = set()
        for task in records.tasks():
            self.tasks[task["upid"]] = task
            self.tasklog.append(task)

    async def task(
        self,
        node: str,
        ttype: str,
        tid: Any,
        user: str,
        body: Body,
        vm: Any = None,
        lock: bool = True,
        log: Sequence[str] = (),
    ) -> str:
        """Start a task and return its UPID immediately."""
        upid, pid, start = self._upid(node, ttype, tid, user)
        record: dict[str, Any] = {
            "upid": upid,
            "node": node,
            "pid": pid,
            "pstart": pid * 7,
            "starttime": start,
            "type": ttype,
            "id": str(tid),
            "user": user,
            "status": "running",
            "log": list(log),
        }
        self.tasks[upid] = record
        self.tasklog.append(record)
        self.records.note(record)
        job = asyncio.get_running_loop().create_task(self._run(record, body, vm if lock else None))
        # Keep a reference: asyncio itself has only a weak one.
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return str(upid)

    async def _run(self, record: dict[str, Any], body: Body, vm: Any) -> None:
        log: list[str] = record["log"]
        set_log(log)
        status = "unexpected status"
        try:
            if vm is not None:
                await self.acquire(vm, record["upid"])
            try:
                note = await body()
            finally:
                if vm is not None:
                    self.release(vm, record["upid"])
            if note:
                log.append(note)
            warnings = sum(line.startswith("WARN: ") for line in log)
            status = f"WARNINGS: {warnings}" if warnings else "OK"
        except TaskError as error:
            status = str(error)
        except (HomelabError, OSError) as error:
            log.extend(str(error).splitlines()[1:])
            status = str(error).splitlines()[0]
        finally:
            log.append(_last_line(status))
            record.update(status="stopped", exitstatus=status, endtime=int(time.time()))
            self.records.note(record)

    async def _task_list(self, request: web.Request) -> web.Response:
        """Answer GET /nodes/{node}/tasks: finished tasks, and running ones (as RUNNING) if `source` includes them."""
        query = self._verify(request, await params(request))
        user, node = request[USER], request.match_info["node"]
        source, kind, vmid = query.get("source", "archive"), query.get("typefilter"), query.get("vmid")
        audit = self.allowed(user, f"/nodes/{node}", "Sys.Audit")
        found = [
            self._task_view(task, listing=True) | ({"status": "RUNNING"} if task["status"] == "running" else {})
            for task in self.tasklog
            if task["node"] == node
            and (audit or self._task_owner(user, task))
            and (vmid is None or task["id"] == str(vmid))
            and kind in (None, task["type"])
            and (source == "all" or (task["status"] == "running") == (source == "active"))
        ]
        # Newest first, also among tasks of the same second.
        found.reverse()
        start, limit = query.get("start", 0), query.get("limit", 50)
        return web.json_response({"data": found[start : start + limit], "total": len(found)})

    async def _task_log(self, request: web.Request) -> web.Response:
        """Answer GET /nodes/{node}/tasks/{upid}/log, with the total next to the data."""
        query = self._verify(request, await params(request))
        lines = self._get_task(request)["log"]
        start, limit = query.get("start", 0), query.get("limit", 50) or len(lines)
        numbered = [{"n": number, "t": line} for number, line in enumerate(lines, 1)]
        return web.json_response({"data": numbered[start : start + limit], "total": len(lines)})


def _last_line(status: str) -> str:
    if status == "OK":
        return "TASK OK"
    return f"TASK {status}" if status.startswith("WARNINGS: ") else f"TASK ERROR: {status}"
