"""The newest tasks of a node, from one call for all threads that wait for a task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

NEWEST = 50  # tasks in one answer


@dataclass
class TaskList:
    """The newest tasks of each node, read at most once for all threads that need them at the same time."""

    read: Callable[[str], Sequence[dict[str, Any]]]  # returns the newest tasks of a node
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _read: dict[str, tuple[float, Sequence[dict[str, Any]]]] = field(default_factory=dict)

    def newest(self, node: str, since: float) -> Sequence[dict[str, Any]]:
        """Return the newest tasks of a node, read at `since` (time.monotonic) or later. Raises HomelabError."""
        with self._lock:
            at, tasks = self._read.get(node, (-1.0, ()))
            if at < since:
                at, tasks = time.monotonic(), self.read(node)
                self._read[node] = at, tasks
            return tasks
