"""Tasks on the node: wait for them, judge how they ended, read their logs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from homelab.errors import HomelabError
from homelab.proxmox.client import Client
from homelab.proxmox.errors import ProxmoxError, Unanswered
from homelab.proxmox.privileges import grant

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.05, 1.0, 1.5  # seconds between two looks at a task
_LOOKS = (0.2, 0.5, 1.0, 3.0)  # seconds before a call whose answer was lost is looked for
_PAGE = 500  # log lines in one call; Proxmox gives 50 unless asked
_SHOWN = 8  # log lines in an error


@dataclass(frozen=True, slots=True)
class Task:
    """A task by its UPID, with what the UPID says: node, type, vmid, and its start in seconds since the epoch.

    A download's `vmid` is the name of its file.
    """

    upid: str
    node: str
    kind: str
    vmid: str
    started: int
    creator: str = ""
    running: bool = False

    @classmethod
    def of(cls, upid: str) -> Task:
        """The task that a call has started, from its answer. Raises HomelabError if that is no UPID."""
        parts = str(upid).split(":")
        if len(parts) != 9 or parts[0] != "UPID":
            raise HomelabError(
                "Proxmox did not say which task it started",
                f"It answered {upid!r}.",
                "Run the same command again: it finds out what has been done.",
            )
        return cls(upid, parts[1], parts[5], parts[6], int(parts[4], 16))


def begin(client: Client, node: str, vmid: int | str, kind: str, send: Callable[[], Any]) -> Task:
    """Send a call that starts a task of this kind; the task.

    When its answer is lost, it is sent again only once the node's list of tasks shows that it has not arrived.
    """
    before = {task.upid for task in of_container(client, node, vmid, kind)}
    failure: HomelabError | None = None
    for pause in _LOOKS:
        try:
            task = Task.of(send())
            client.begun(task.upid)
            return task
        except (Unanswered, ProxmoxError) as error:
            answered = not isinstance(error, Unanswered)
            if answered and failure is None:
                raise
            failure = error
        # Either no answer, or a refusal that the first sending itself may be the cause of.
        time.sleep(pause)
        for task in of_container(client, node, vmid, kind):
            if task.upid not in before and task.creator == client.endpoint.token_id:
                client.begun(task.upid)
                return task
        if answered:
            break
    raise failure or AssertionError("a call neither went through nor failed")


class TaskFailed(HomelabError):
    """A task ended with an error: the error has its exit status and the last lines of its log."""


def pauses() -> Iterator[float]:
    """Seconds to sleep between looks: short at first, never long."""
    pause = _FIRST_PAUSE
    while True:
        yield pause
        pause = min(pause * _GROWTH, _LONGEST_PAUSE)


def ended(client: Client, task: Task, deadline: float, hear: Callable[[str], None] | None = None) -> str:
    """Wait at most `deadline` seconds for a task's end; its exit status. Raises HomelabError when time is up.

    `hear` is given the newest line of the task's log now and then.
    """
    until, heard = time.monotonic() + deadline, 0
    for pause in pauses():
        if hear:
            heard = _hear(client, task, heard, hear)
        status: dict[str, Any] = client.get(f"nodes/{task.node}/tasks/{task.upid}/status")
        if status.get("status") == "stopped":
            result = str(status.get("exitstatus", "unexpected status"))
            client.ended(task.upid, result)
            return result
        if time.monotonic() > until:
            break
        time.sleep(pause)
    raise HomelabError(
        f"{task.kind} of {task.vmid} has not ended after {deadline:.0f} s",
        f"The task still runs on node {task.node}: {task.upid}",
        "Run the same command again: it waits for what still runs and goes on from there.",
    )


def _hear(client: Client, task: Task, heard: int, hear: Callable[[str], None]) -> int:
    """Tell the newest of the log's lines that have come since; how many there are now."""
    fresh = log(client, task, heard)
    for line in [line for line in fresh if line.strip() and not line.startswith("TASK ")][-1:]:
        hear(line)
    return heard + len(fresh)


def wait(
    client: Client, task: Task, what: str, deadline: float, hear: Callable[[str], None] | None = None
) -> list[str]:
    """Wait for a task that has to succeed; its warnings. Raises TaskFailed with the last lines of its log."""
    status = ended(client, task, deadline, hear)
    if status == "OK":
        return []
    lines = log(client, task)
    if status.startswith("WARNINGS"):
        return [line for line in lines if line.startswith("WARN")]
    shown = [line for line in lines if line.strip()][-_SHOWN:]
    raise TaskFailed(
        f"{what} failed",
        "\n".join([f"{task.kind} {task.vmid} on node {task.node}: {status}", *(f"  {line}" for line in shown)]),
        grant(status, client.endpoint.token_id)
        if "Permission check failed" in status
        else "Mend the cause and run the same command again: it goes on where it stopped.",
    )


def log(client: Client, task: Task, start: int = 0) -> list[str]:
    """A task's log from a line on, the first being 0."""
    lines: list[str] = []
    while True:
        page = client.get(f"nodes/{task.node}/tasks/{task.upid}/log", start=start + len(lines), limit=_PAGE)
        lines += [str(line["t"]) for line in page]
        if len(page) < _PAGE:
            return lines


def of_container(
    client: Client, node: str, vmid: int | str, kind: str | None = None, *, finished: bool = True
) -> Sequence[Task]:
    """A container's tasks of one kind or of all, newest first: those that run, and those that have ended too.

    Or those of a download, by the name of its file.
    """
    query: dict[str, Any] = {"source": "all" if finished else "active", "limit": _PAGE}
    if isinstance(vmid, int):
        query["vmid"] = vmid
    if kind:
        query["typefilter"] = kind
    rows = client.get(f"nodes/{node}/tasks", **query)
    found = [_listed(node, row) for row in rows if str(row["id"]) == str(vmid)]
    wanted = [task for task in found if (not kind or task.kind == kind) and (finished or task.running)]
    # Of those of the same second, the one whose worker started last is the newest.
    return sorted(wanted, key=lambda task: (task.started, task.upid.split(":")[3]), reverse=True)


def clone_into(client: Client, node: str, vmid: int) -> Task | None:
    """The newest task that makes this container a clone of another one, under whose vmid it is listed."""
    rows = client.get(f"nodes/{node}/tasks", source="all", typefilter="vzclone", limit=_PAGE)
    clones = sorted((_listed(node, row) for row in rows), key=lambda task: task.started, reverse=True)
    return next(
        (task for task in clones if any(line.endswith(f"with ID {vmid}") for line in log(client, task)[:1])), None
    )


def settle(client: Client, node: str, vmid: int, deadline: float) -> None:
    """Wait for whatever still runs on a container, however it ends: a killed run's tasks go on without it."""
    for task in of_container(client, node, vmid, finished=False):
        ended(client, task, deadline)


def _listed(node: str, row: dict[str, Any]) -> Task:
    user = str(row.get("user", "")).partition("!")[0]
    creator = f"{user}!{row['tokenid']}" if row.get("tokenid") else str(row.get("user", ""))
    # Only a task that has ended has an end; the status is its exit status then, and RUNNING before.
    return Task(
        str(row["upid"]), node, str(row["type"]), str(row["id"]), int(row["starttime"]), creator, "endtime" not in row
    )
