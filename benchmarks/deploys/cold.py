"""The first deploy into new containers, compared with a hand-written script and with Ansible."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from benchmarks.deploys.deployed import FAST, playbook_of
from benchmarks.peers.script import Script
from benchmarks.stack import Stack, whole_stack
from benchmarks.table import Row

_LIMIT = 1.15
_METHODS: dict[str, Callable[[Stack], float]] = {
    "script": lambda stack: Script(stack).run(),
    "homelab": lambda stack: stack.homelab("deploy").seconds,
    "Ansible": lambda stack: playbook_of(stack).run(FAST, cold=True).seconds,
}


def cold(folder: Path, rounds: int) -> Iterator[Row]:
    """Run each method in its own containers, one after the other; in the next round in the opposite order.

    The containers are stopped afterwards, but not removed: ext4 without a journal does not reuse inodes that were freed
    within the last minutes. After a `destroy`, it skips tens of thousands of them for each new file, and the next run
    takes up to 50 % longer.
    """
    seconds: dict[str, list[float]] = {name: [] for name in _METHODS}
    order, numbers = list(_METHODS), count(1)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else order[::-1]:
            if turn and name == "Ansible":
                continue
            stack = _fresh(folder, next(numbers))
            seconds[name].append(_METHODS[name](stack))
            print(f"  {name}: {seconds[name][-1]:.0f} s", file=sys.stderr, flush=True)
            if name != "homelab":
                _require_same(stack, name)
            stack.stop()
    ours, script, ansible = (statistics.median(seconds[name]) for name in ("homelab", "script", "Ansible"))
    yield Row(
        "cold `deploy`, whole stack",
        f"{ours:.0f} s",
        f"{script:.0f} s (a hand-written script)",
        f"{ours / script:.2f}",
        f"≤ {_LIMIT}",
        ours / script <= _LIMIT,
    )
    yield Row(
        f"… compared with {FAST}",
        f"{ours:.0f} s",
        f"{ansible:.0f} s",
        f"{ansible / ours:.1f}x faster",
        "faster",
        ours < ansible,
    )


def _fresh(folder: Path, number: int) -> Stack:
    (own := folder / str(number)).mkdir()
    stack = whole_stack(own, number)
    stack.recreate()
    return stack


def _require_same(stack: Stack, name: str) -> None:
    """Raise SystemExit if homelab would still change anything."""
    output = stack.homelab("deploy", "--dry-run").output
    if output.count("nothing to change") != len(stack.inventory.containers):
        raise SystemExit(f"Cannot compare {name}: homelab would still change something:\n{output}")
