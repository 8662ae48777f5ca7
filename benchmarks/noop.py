"""`homelab up` without changes: compared with Ansible for 3 containers, with the bare calls for 100."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import node as on_node
from benchmarks.ansible import Playbook
from benchmarks.create import create_all, run_up
from benchmarks.node import SECRET, Node
from benchmarks.process import run_program
from benchmarks.site import Site, site
from benchmarks.table import Row
from tests.integration.fakenode import TOKEN

_RUNS = 3  # of each; the median counts
_LATENCY = 0.010  # seconds of an answer, as of a busy node
# The same reads in sequence over one connection, in a bare Python without checks and parsing.
_FLOOR = """
import http.client, json, ssl, sys, time
started = time.perf_counter()
port, token, paths = json.load(open(sys.argv[1]))
connection = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context())
for path in paths:
    connection.request("GET", path, headers={"Authorization": token})
    connection.getresponse().read()
print(time.perf_counter() - started)
"""


def three(folder: Path, node: Node) -> Iterator[Row]:
    """Compare `up` of three unchanged containers with Ansible's run of the same."""
    place = site(folder, node, 3)
    create_all(place, node)
    playbook = Playbook(folder / "ansible", node, place.inventory.containers)
    playbook.run()  # converges remaining differences
    ours, theirs = [_up(place, node) for _ in range(_RUNS)], [playbook.run() for _ in range(_RUNS)]
    if any(run.changed for run in theirs):
        raise SystemExit("Cannot compare: Ansible's run made changes.")
    mine, other = ours[0][1], theirs[0].seen
    yield Row(
        "no-op `up`, 3 containers: API calls",
        f"{mine.calls}",
        f"{other.calls} (Ansible)",
        f"{other.calls / mine.calls:.1f}x fewer",
        "≤ 5",
        mine.calls <= 5,
    )
    yield Row(
        "… connections",
        f"{mine.connections}",
        f"{other.connections} (Ansible)",
        f"{other.connections / mine.connections:.0f}x fewer",
        "1",
        mine.connections == 1,
    )
    fast, slow = statistics.median(t for t, _ in ours), statistics.median(run.seconds for run in theirs)
    yield Row(
        "… from start to end",
        f"{fast:.2f} s",
        f"{slow:.2f} s (Ansible)",
        f"{slow / fast:.1f}x faster",
        "faster",
        fast < slow,
    )
    in_process = []
    for _ in range(_RUNS):
        with node.counting():
            in_process.append(run_up(place))
    itself, (_, floor) = statistics.median(in_process), _bare_calls(folder, node)
    yield Row(
        "… of that in `up`, once Python has started",
        f"{itself:.3f} s",
        f"{floor:.3f} s (the bare calls)",
        f"{itself / floor:.1f}x",
        "≤ 0.3 s",
        itself <= 0.3,
    )


def hundred(folder: Path, node: Node) -> Iterator[Row]:
    """Compare `up` of a hundred unchanged containers with its bare calls."""
    place = site(folder, node, 100)
    create_all(place, node)
    for name, seconds in (("", 0.0), (f", each answer {_LATENCY * 1000:.0f} ms late", _LATENCY)):
        node.ask(on_node.latency, seconds)
        ours = [_up(place, node) for _ in range(_RUNS)]
        floor, _ = _bare_calls(folder, node)
        fast = statistics.median(t for t, _ in ours)
        yield Row(
            f"no-op `up`, 100 containers{name} ({ours[0][1].calls} calls)",
            f"{fast:.2f} s",
            f"{floor:.2f} s (the bare calls)",
            f"{fast / floor:.1f}x",
            "≤ 2 s",
            fast <= 2,
        )
    node.ask(on_node.latency, 0.0)


def _up(place: Site, node: Node) -> tuple[float, on_node.Seen]:
    with node.counting() as seen:
        run = place.homelab("up", "--yes")
    if not run.output.startswith("Nothing to do"):
        raise SystemExit(f"Cannot compare: `up` made changes:\n{run.output}")
    return run.seconds, seen[0]


def _bare_calls(folder: Path, node: Node) -> tuple[float, float]:
    """Repeat the reads of the last counted run; return the median seconds of the process and of its calls."""
    paths = folder / "paths.json"
    paths.write_text(json.dumps([node.port, f"PVEAPIToken={TOKEN}={SECRET}", node.ask(on_node.reads)]))
    runs = [run_program([sys.executable, "-c", _FLOOR, str(paths)], folder) for _ in range(_RUNS)]
    return statistics.median(run.seconds for run in runs), statistics.median(float(run.output) for run in runs)
