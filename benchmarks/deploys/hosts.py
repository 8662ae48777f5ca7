"""Growing numbers of hosts: a no-op of 3, 10 and 30 containers without services."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.stack import bare_containers
from benchmarks.table import Row

_COUNTS = (3, 10, 30)
_ROUNDS = 5
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_SHARE = 0.25  # of the growth in hosts: the allowed growth in time


@contextmanager
def _more_inotify() -> Iterator[None]:
    """Raise the inotify limit for thirty times systemd: all unprivileged containers count as one user."""
    before = _INOTIFY.read_text()
    _INOTIFY.write_text(str(max(int(before), 1024)))
    try:
        yield
    finally:
        _INOTIFY.write_text(before)


def hosts(folder: Path) -> Iterator[Row]:
    """Ten hosts instead of three are 233 % more: the time may grow by a quarter of that, 58 %."""
    stack = bare_containers(folder, _COUNTS[-1])
    names = [container.name for container in stack.inventory.containers]
    seconds: dict[int, list[float]] = {count: [] for count in _COUNTS}
    with _more_inotify():
        stack.homelab("up", "--yes")
        stack.homelab("deploy")
        for _ in range(_ROUNDS):
            for count in _COUNTS:
                chosen = [word for name in names[:count] for word in ("--limit", name)]
                run = stack.homelab("deploy", *chosen)
                if run.output.count("nothing to change") != count:
                    raise SystemExit(f"Cannot compare: the deploy made changes:\n{run.output}")
                seconds[count].append(run.seconds)
        stack.homelab("destroy", "--yes")
    medians = {count: statistics.median(each) for count, each in seconds.items()}
    few = _COUNTS[0]
    for count in _COUNTS[1:]:
        most = 1 + _SHARE * (count / few - 1)
        has_limit = count <= 10
        grown = medians[count] / medians[few]
        yield Row(
            f"no-op `deploy`, {count} containers without services",
            f"{medians[count]:.2f} s",
            f"{medians[few]:.2f} s ({few} containers)",
            f"{grown:.2f}",
            f"≤ {most:.2f}" if has_limit else "",
            not has_limit or grown <= most,
        )
