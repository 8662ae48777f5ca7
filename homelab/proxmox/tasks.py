"""Tasks on the node: start them, wait for their end, check their exit status, read their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from homelab.errors import HomelabError
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered
from homelab.proxmox.privileges import grant

# Seconds between two polls of a task, and the growth factor. A poll may use the answer to another one of this share of
# the pause before it.
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH, _SHARED = 0.1, 5.0, 1.5, 0.5
_CHECK_AFTER = (0.2, 0.5, 1.0, 3.0)  # seconds before each check for a task after a lost answer
_AWAY = 90.0  # seconds without an answer after which a task is no longer waited for
_RECENT = 1.0  # seconds: the age of a list that still shows the tasks of an earlier run
_PAGE = 500  # log lines per call; Proxmox's default is 50
_SHOWN = 8  # log lines in an error


@dataclass(frozen=True, slots=True)
class Task:
    """A task, with the fields of its UPID: node, type, vmid, and its start in seconds since the epoch.

    The `vmid` of a download is its file name.
    """

    upid: str
    node: str
    kind: str
    vmid: str
    started: int
    creator: str = ""
    running: bool = False
    result: str = ""  # of a listed task that has ended: its exit status
    end: int = 0  # of a listed task that has ended: seconds since the epoch, by the node's clock

    @classmethod
    def of(cls, upid: str) -> Task:
        """Parse the answer of a call that starts a task. Raises HomelabError if it is not a UPID."""
        parts = str(upid).split(":")
        if len(parts) != 9 or parts[0] != "UPID":
            raise HomelabError(
                "Cannot follow the task: Proxmox's answer is not a UPID",
                f"It answered {upid!r}.",
                "Run the same command again: it reads the current state.",
            )
        return cls(upid, parts[1], parts[5], parts[6], int(parts[4], 16))


def begin(client: Client, node: str, vmid: int | str, kind: str, send: Callable[[], Any]) -> Task:
    """Send a call that starts a task of this kind, and return the task.

    If the answer is lost, send the call again only after the node's task list shows that it has not arrived.
    """
    # The list may be older than this call: only tasks of this client have begun since.
    known = newest(client, node, 0.0)
    latest = max((task.started for task in known), default=0)
    before = {*(task.upid for task in known), *client.begun_tasks}
    failure: HomelabError | None = None
    for pause in _CHECK_AFTER:
        try:
            return Task.of(send())
        except (Unanswered, ProxmoxError) as error:
            answered = not isinstance(error, Unanswered)
            if answered and failure is None:
                raise
            failure = error
        # No answer, or a refusal that the first attempt may have caused, such as an existing vmid.
        time.sleep(pause)
        for task in of_container(client, node, vmid, kind):
            if task.upid not in before and task.started >= latest and task.creator == client.endpoint.token_id:
                client.begun(task.upid)
                return task
        if answered:
            break
    raise failure or AssertionError("a call neither went through nor failed")


class TaskFailed(HomelabError):
    """Error for a failed task, with its exit status and the last lines of its log."""


def pauses() -> Iterator[float]:
    """Yield growing pauses between polls, in seconds."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def shared_since(pause: float) -> float:
    """Return the moment (time.monotonic) since which another thread's answer serves a poll after this pause."""
    return time.monotonic() - pause * _SHARED


def ended(client: Client, task: Task, deadline: float, hear: Callable[[str], None] | None = None) -> str:
    """Wait at most `deadline` seconds for a task's end and return its exit status. Raises HomelabError on timeout.

    `hear` receives the newest line of the task's log at each poll. A node that does not answer, such as during a
    restart of its API, is asked again for 90 seconds; its tasks go on meanwhile.
    """
    began = answered = time.monotonic()
    until, heard = began + deadline, 0
    for pause in pauses():
        time.sleep(pause)
        try:
            if hear:
                heard = _hear(client, task, heard, hear)
            result = _result(client, task, max(shared_since(pause), began))
            answered = time.monotonic()
        except Unanswered as error:
            if time.monotonic() > answered + _AWAY:
                raise HomelabError(
                    f"Cannot follow {task.kind} of {task.vmid}: Proxmox does not answer",
                    f"{error.details}\nThe task probably continues on node {task.node}: {task.upid}",
                    "Run the same command again: it waits for the running task and continues from there.",
                ) from error
            result = None
        if result is not None:
            client.ended(task.upid, result)
            return result
        if time.monotonic() > until:
            break
    raise HomelabError(
        f"Cannot finish {task.kind} of {task.vmid}: no end after {deadline:.0f} s",
        f"The task still runs on node {task.node}: {task.upid}",
        "Run the same command again: it waits for the running task and continues from there.",
    )


def _result(client: Client, task: Task, since: float) -> str | None:
    """Return the exit status of a task, or None while it runs, as known at `since` (time.monotonic) or later."""
    for listed in newest(client, task.node, since):
        if listed.upid == task.upid:
            return None if listed.running else listed.result
    status: dict[str, Any] = client.get(f"nodes/{task.node}/tasks/{task.upid}/status")
    return str(status.get("exitstatus", "unexpected status")) if status.get("status") == "stopped" else None


def newest(client: Client, node: str, since: float) -> Sequence[Task]:
    """Return the newest tasks of a node, running and finished ones, read at `since` (time.monotonic) or later."""
    return [_listed(node, row) for row in client.task_list.newest(node, since)]


def recent(client: Client, node: str, vmid: int) -> Sequence[Task]:
    """Return a container's tasks among the newest ones of its node, as known a second ago or later."""
    return [task for task in newest(client, node, time.monotonic() - _RECENT) if task.vmid == str(vmid)]


def _hear(client: Client, task: Task, heard: int, hear: Callable[[str], None]) -> int:
    """Pass on the newest of the log's new lines, and return the number of lines so far."""
    fresh = log(client, task, heard)
    for line in [line for line in fresh if line.strip() and not line.startswith("TASK ")][-1:]:
        hear(line)
    return heard + len(fresh)


def wait(
    client: Client, task: Task, goal: str, deadline: float, hear: Callable[[str], None] | None = None
) -> list[str]:
    """Wait for a task that has to succeed and return its warnings. Raises TaskFailed with the last lines of its log.

    `goal` names the action in the error, such as `create NAME`.
    """
    status = ended(client, task, deadline, hear)
    if status == "OK":
        return []
    lines = log(client, task)
    if status.startswith("WARNINGS"):
        return [line for line in lines if line.startswith("WARN")]
    shown = [line for line in lines if line.strip()][-_SHOWN:]
    raise TaskFailed(
        f"Cannot {goal}: its task failed",
        "\n".join([f"{task.kind} {task.vmid} on node {task.node}: {status}", *(f"  {line}" for line in shown)]),
        grant(status, client.endpoint.token_id)
        if "Permission check failed" in status
        else "Fix the cause, then run the same command again: it continues from there.",
    )


def log(client: Client, task: Task, start: int = 0) -> list[str]:
    """Return a task's log from line `start` on, counted from 0."""
    lines: list[str] = []
    while True:
        page = client.get(f"nodes/{task.node}/tasks/{task.upid}/log", start=start + len(lines), limit=_PAGE)
        lines += [str(line["t"]) for line in page]
        if len(page) < _PAGE:
            return lines


def of_container(
    client: Client, node: str, vmid: int | str, kind: str | None = None, *, finished: bool = True
) -> Sequence[Task]:
    """Return a container's tasks of one kind or all, newest first, including finished ones unless `finished` is false.

    For downloads, pass the file name in place of the vmid.
    """
    query: dict[str, Any] = {"source": "all" if finished else "active", "limit": _PAGE}
    if isinstance(vmid, int):
        query["vmid"] = vmid
    if kind:
        query["typefilter"] = kind
    rows = client.get(f"nodes/{node}/tasks", **query)
    found = [_listed(node, row) for row in rows if str(row["id"]) == str(vmid)]
    wanted = [task for task in found if (not kind or task.kind == kind) and (finished or task.running)]
    # Among tasks of the same second, the one with the latest start of its worker process is the newest.
    return sorted(wanted, key=lambda task: (task.started, task.upid.split(":")[3]), reverse=True)


def clone_into(client: Client, node: str, vmid: int) -> Task | None:
    """Return the newest task that clones another container to this one. Proxmox lists it under the source's vmid."""
    rows = client.get(f"nodes/{node}/tasks", source="all", typefilter="vzclone", limit=_PAGE)
    clones = sorted((_listed(node, row) for row in rows), key=lambda task: task.started, reverse=True)
    return next(
        (task for task in clones if any(line.endswith(f"with ID {vmid}") for line in log(client, task)[:1])), None
    )


def settle(client: Client, node: str, vmid: int, deadline: float) -> None:
    """Wait for the running tasks on a container, such as those of a killed run, regardless of their exit status."""
    for task in recent(client, node, vmid):
        if task.running:
            ended(client, task, deadline)


def _listed(node: str, row: dict[str, Any]) -> Task:
    user = str(row.get("user", "")).partition("!")[0]
    creator = f"{user}!{row['tokenid']}" if row.get("tokenid") else str(row.get("user", ""))
    # `status` is RUNNING or the exit status, so look for `endtime`, which only finished tasks have.
    running = "endtime" not in row
    return Task(
        str(row["upid"]),
        node,
        str(row["type"]),
        str(row["id"]),
        int(row["starttime"]),
        creator,
        running,
        "" if running else str(row.get("status") or "unexpected status"),
        int(row.get("endtime", 0)),
    )
