"""The node's memory on disk: one JSON file per container, and a journal of tasks with their logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.private_files import write_private

# Proxmox forgets old task logs too; what was running when we were killed is always kept.
KEPT_TASKS = 500


@dataclass(frozen=True, slots=True)
class Records:
    """Written at every change, so that a node which was killed knows what it was doing."""

    folder: Path

    def save(self, vmid: int, record: dict[str, Any]) -> None:
        """Keep a container's record, replacing an older one atomically."""
        write_private(self._file(vmid), json.dumps(record, indent=1).encode())

    def forget(self, vmid: int) -> None:
        """Remove a container's record, if there is one."""
        self._file(vmid).unlink(missing_ok=True)

    def containers(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every recorded container by vmid."""
        for file in sorted(self.folder.glob("ct-*.json"), key=lambda path: int(path.stem[3:])):
            yield int(file.stem[3:]), json.loads(file.read_text())

    def note(self, task: dict[str, Any]) -> None:
        """Append a task's present state to the journal; the last entry of a UPID counts."""
        with self._journal.open("a") as journal:
            journal.write(json.dumps(task) + "\n")

    def tasks(self) -> list[dict[str, Any]]:
        """The tasks as they stood, oldest first; those that were cut off have Proxmox's `unexpected status`."""
        if not self._journal.exists():
            return []
        latest: dict[str, dict[str, Any]] = {}
        for line in self._journal.read_text().splitlines():
            # A line that a kill cut short is the start or end of a task that is cut off anyway.
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
        """The boot of the machine in which the containers last had their start, if they ever had."""
        file = self.folder / "boot"
        return file.read_text() if file.exists() else None

    def remember_boot(self, boot: str) -> None:
        """The containers that start with the machine have had their start in this boot."""
        write_private(self.folder / "boot", boot.encode())

    @property
    def _journal(self) -> Path:
        return self.folder / "tasks.jsonl"

    def _file(self, vmid: int) -> Path:
        return self.folder / f"ct-{vmid}.json"
