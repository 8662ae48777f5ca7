"""The node's state on disk: one JSON file per container, and a journal of tasks with their logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.private_files import read_mapping, write_private

# Old tasks are dropped, as on Proxmox.
KEPT_TASKS = 500


@dataclass(frozen=True, slots=True)
class Records:
    """The state of a node, written at every change so that the next process can recover after a kill."""

    folder: Path

    def save(self, vmid: int, record: dict[str, Any]) -> None:
        """Write a container's record, replacing an existing one atomically."""
        write_private(self._file(vmid), json.dumps(record, indent=1).encode())

    def forget(self, vmid: int) -> None:
        """Remove a container's record, if there is one."""
        self._file(vmid).unlink(missing_ok=True)

    def containers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every container's vmid and record, ordered by vmid."""
        for file in sorted(self.folder.glob("ct-*.json"), key=lambda path: int(path.stem[3:])):
            yield int(file.stem[3:]), read_mapping(file, "Remove the lab with `homelab lab down`, then make it again.")

    def note(self, task: dict[str, Any]) -> None:
        """Append a task's state to the journal; the last entry of a UPID is the valid one."""
        with self._journal.open("a") as journal:
            journal.write(json.dumps(task) + "\n")

    def tasks(self) -> list[dict[str, Any]]:
        """Read the tasks, oldest first; interrupted ones get Proxmox's `unexpected status`."""
        if not self._journal.exists():
            return []
        latest: dict[str, dict[str, Any]] = {}
        for line in self._journal.read_text().splitlines():
            # A line truncated by a kill belongs to a task that was interrupted by the same kill.
            if line.endswith("}"):
                task = json.loads(line)
                latest[task["upid"]] = task
        tasks = [
            task
            if "exitstatus" in task
            else {**task, "status": "stopped", "exitstatus": "unexpected status", "endtime": task["starttime"]}
            for task in latest.values()
        ][-KEPT_TASKS:]
        write_private(self._journal, "".join(json.dumps(task) + "\n" for task in tasks).encode())
        return tasks

    def boot(self) -> str | None:
        """Return the id of the boot after which the containers were last started, if any."""
        file = self.folder / "boot"
        return file.read_text() if file.exists() else None

    def remember_boot(self, boot: str) -> None:
        """Record that the containers with `onboot` were started after this boot."""
        write_private(self.folder / "boot", boot.encode())

    @property
    def _journal(self) -> Path:
        return self.folder / "tasks.jsonl"

    def _file(self, vmid: int) -> Path:
        return self.folder / f"ct-{vmid}.json"
