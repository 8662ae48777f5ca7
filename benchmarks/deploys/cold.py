"""The first deploy, into containers that are new: beside a script written by hand, and beside Ansible."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from benchmarks.deploys.deployed import FAST, playbook_of
from benchmarks.peers.script import Script
from benchmarks.stack import Stack, whole
from benchmarks.table import Row

_MOST = 1.15


_WAYS: dict[str, Callable[[Stack], float]] = {
    "script": lambda stack: Script(stack).run(),
    "homelab": lambda stack: stack.homelab("deploy").seconds,
    "Ansible": lambda stack: playbook_of(stack).run(FAST, cold=True).seconds,
}


def cold(folder: Path, rounds: int) -> Iterator[Row]:
    """Each in containers of its own, one after the other; in the next round in the opposite order.

    They are stopped afterwards, and kept: an ext4 without a journal, which the machine may have, makes no new file in
    the place of one that was removed within the last minutes. After a `destroy` it passes by tens of thousands of them
    for each file, and whoever comes next takes up to half as long again.
    """
    seconds: dict[str, list[float]] = {name: [] for name in _WAYS}
    order, numbers = list(_WAYS), count(1)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else order[::-1]:
            if turn and name == "Ansible":
                continue
            stack = _fresh(folder, next(numbers))
            seconds[name].append(_WAYS[name](stack))
            print(f"  {name}: {seconds[name][-1]:.0f} s", file=sys.stderr, flush=True)
            if name != "homelab":
                _require_same(stack, name)
            stack.off()
    ours, script, ansible = (statistics.median(seconds[name]) for name in ("homelab", "script", "Ansible"))
    yield Row(
        "cold `deploy`, whole stack",
        f"{ours:.0f} s",
        f"{script:.0f} s (a script written by hand)",
        f"{ours / script:.2f}",
        f"≤ {_MOST}",
        ours / script <= _MOST,
    )
    yield Row(
        f"… beside {FAST}",
        f"{ours:.0f} s",
        f"{ansible:.0f} s",
        f"{ansible / ours:.1f}x faster",
        "faster",
        ours < ansible,
    )


def _fresh(folder: Path, number: int) -> Stack:
    (own := folder / str(number)).mkdir()
    stack = whole(own, number)
    stack.anew()
    return stack


def _require_same(stack: Stack, name: str) -> None:
    """Raises SystemExit if homelab would still do anything there."""
    said = stack.homelab("deploy", "--dry-run").said
    if said.count("nothing to change") != len(stack.inventory.containers):
        raise SystemExit(f"After {name}, homelab finds something to do:\n{said}")
