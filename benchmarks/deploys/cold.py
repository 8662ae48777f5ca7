"""The first deploy, into containers that are new: beside a script written by hand, and beside Ansible."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator

from benchmarks.deploys.deployed import FAST, playbook_of
from benchmarks.peers.script import Script
from benchmarks.stack import Stack
from benchmarks.table import Row

_MOST = 1.15


def cold(stack: Stack, rounds: int) -> Iterator[Row]:
    """Each in containers of its own, one after the other; in the next round in the opposite order."""
    ways: dict[str, Callable[[], float]] = {
        "script": lambda: Script(stack).run(),
        "homelab": lambda: stack.homelab("deploy").seconds,
        "Ansible": lambda: playbook_of(stack).run(FAST, cold=True).seconds}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for turn in range(rounds):
        for name in order if turn % 2 == 0 else order[::-1]:
            if turn and name == "Ansible":
                continue
            stack.anew()
            seconds[name].append(ways[name]())
            print(f"  {name}: {seconds[name][-1]:.0f} s", file=sys.stderr, flush=True)
            if name != "homelab":
                _require_same(stack, name)
    ours, script, ansible = (statistics.median(seconds[name]) for name in ("homelab", "script", "Ansible"))
    yield Row("cold `deploy`, whole stack", f"{ours:.0f} s", f"{script:.0f} s (a script written by hand)",
              f"{ours / script:.2f}", f"≤ {_MOST}", ours / script <= _MOST)
    yield Row(f"… beside {FAST}", f"{ours:.0f} s", f"{ansible:.0f} s", f"{ansible / ours:.1f}x faster",
              "faster", ours < ansible)


def _require_same(stack: Stack, name: str) -> None:
    """What homelab would still do there is said: it ought to be nothing."""
    said = stack.homelab("deploy", "--dry-run").said
    print(f"  after {name}, homelab finds: {said}", file=sys.stderr)
