"""More and more hosts: a no-op of 3, 10 and 30 containers that have only what every container has."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stack import many
from benchmarks.table import Row

_COUNTS = (3, 10, 30)
_ROUNDS = 5
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_SHARE = 0.25  # of the hosts' growth that the time may grow by


@contextmanager
def _room() -> Iterator[None]:
    """As much inotify as thirty times systemd takes: all unprivileged containers count as one user's."""
    before = _INOTIFY.read_text()
    _INOTIFY.write_text(str(max(int(before), 1024)))
    try:
        yield
    finally:
        _INOTIFY.write_text(before)


def hosts(folder: Path) -> Iterator[Row]:
    """Ten hosts instead of three are 233 % more: the time may grow by a quarter of that, 58 %."""
    stack = many(folder, _COUNTS[-1])
    names = [container.name for container in stack.inventory.containers]
    seconds: dict[int, list[float]] = {count: [] for count in _COUNTS}
    with _room():
        stack.homelab("up", "--yes")
        stack.homelab("deploy")
        for _ in range(_ROUNDS):
            for count in _COUNTS:
                chosen = [word for name in names[:count] for word in ("--limit", name)]
                run = stack.homelab("deploy", *chosen)
                if run.said.count("nothing to change") != count:
                    raise SystemExit(f"The deploy was no no-op:\n{run.said}")
                seconds[count].append(run.seconds)
        stack.homelab("destroy", "--yes")
    medians = {count: statistics.median(each) for count, each in seconds.items()}
    few = _COUNTS[0]
    for count in _COUNTS[1:]:
        most = 1 + _SHARE * (count / few - 1)
        held = count <= 10
        grown = medians[count] / medians[few]
        yield Row(
            f"no-op `deploy`, {count} containers without services",
            f"{medians[count]:.2f} s",
            f"{medians[few]:.2f} s ({few} containers)",
            f"{grown:.2f}",
            f"≤ {most:.2f}" if held else "",
            not held or grown <= most,
        )
