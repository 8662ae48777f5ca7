"""The use of containers and of PostgreSQL in the last hour: from Prometheus, or from the samples of this command."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import isfinite

from homelab.host import UNREADABLE, Result
from homelab.services.prometheus import range_query

_HOUR, _STEP = 3600, 60  # seconds
_QUERIES = {
    "cpu": '1 - avg by (container) (rate(node_cpu_seconds_total{mode="idle"}[2m]))',
    "memory": "1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes",
    "connections": "sum(pg_stat_activity_count)",
}


@dataclass(frozen=True, slots=True)
class UsageHistory:
    """Values of the last hour, oldest first: shares of processors and memory by container, connections.

    `source` names their origin.
    """

    source: str
    cpu: Mapping[str, Sequence[float]] = field(default_factory=dict)
    memory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    connections: Sequence[float] = ()


class HistoryRecorder:
    """A record of samples; the values of Prometheus, read once a minute, take precedence."""

    def __init__(self, begin: datetime, clock: Callable[[], float] = time.time) -> None:
        self._begin, self._clock = begin, clock
        self._samples: deque[tuple[float, Mapping[tuple[str, str], float]]] = deque()
        self._answered: dict[str, dict[str, list[float]]] = {}
        self._asked = 0.0

    def probes(self) -> Sequence[str]:
        """Return the requests to Prometheus that are due, for its container."""
        if self._clock() - self._asked < _STEP:
            return ()
        now = int(self._clock())
        return [range_query(query, now - _HOUR, now, _STEP) for query in _QUERIES.values()]

    def answer(self, results: Sequence[Result]) -> None:
        """Replace the earlier answers by those to `probes`; a failed request leaves none."""
        if results:
            self._asked = self._clock()
            self._answered = {name: _series(result) for name, result in zip(_QUERIES, results, strict=True)}

    def record(self, values: Mapping[tuple[str, str], float]) -> None:
        """Record the values of a sample: by kind (`cpu`, `memory`, `connections`) and container."""
        now = self._clock()
        self._samples.append((now, values))
        while self._samples[0][0] < now - _HOUR:
            self._samples.popleft()

    def history(self) -> UsageHistory:
        """Return the history; samples replace the values that Prometheus does not have."""
        found: dict[str, dict[str, list[float]]] = {name: {} for name in _QUERIES}
        for _, values in self._samples:
            for (kind, name), value in values.items():
                found[kind].setdefault(name, []).append(value)
        known = any(self._answered.values())
        for kind, series in self._answered.items():
            found[kind] |= series
        source = "Prometheus, the last hour" if known else f"samples since {self._begin:%H:%M:%S}"
        return UsageHistory(source, found["cpu"], found["memory"], found["connections"].get("", ()))


def _series(answer: Result) -> dict[str, list[float]]:
    """Return the values of a range by container; none if Prometheus does not answer."""
    try:
        rows = json.loads(answer.text)["data"]["result"] if answer.ok else []
        return {
            row["metric"].get("container", ""): [value for _, text in row["values"] if isfinite(value := float(text))]
            for row in rows
        }
    except UNREADABLE:
        return {}
