"""A run that finds nothing to do: against Ansible with three containers, against the bare calls with a hundred."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import node as on_node
from benchmarks.ansible import Playbook
from benchmarks.create import again, made
from benchmarks.node import SECRET, Node
from benchmarks.process import ran
from benchmarks.site import Site, site
from benchmarks.table import Row
from tests.integration.fakenode import TOKEN

_TIMES = 3  # runs of each; the median counts
_FAR = 0.010  # seconds that an answer takes, as on a busy node
# The same reads one after another over one connection, in a bare Python that checks and understands nothing.
_FLOOR = """
import http.client, json, ssl, sys, time
started = time.perf_counter()
port, token, paths = json.load(open(sys.argv[1]))
line = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context())
for path in paths:
    line.request("GET", path, headers={"Authorization": token})
    line.getresponse().read()
print(time.perf_counter() - started)
"""


def three(folder: Path, node: Node) -> Iterator[Row]:
    """`up` of three containers that are as they should be, and Ansible's run of the same."""
    place = site(folder, node, 3)
    made(place, node)
    playbook = Playbook(folder / "ansible", node, place.inventory.containers)
    playbook.run()  # it converges, should there be anything
    ours, theirs = [_up(place, node) for _ in range(_TIMES)], [playbook.run() for _ in range(_TIMES)]
    if any(run.changed for run in theirs):
        raise SystemExit("Ansible's run was no no-op, so there is nothing to compare.")
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
    within = []
    for _ in range(_TIMES):
        with node.counting():
            within.append(again(place))
    itself, (_, floor) = statistics.median(within), _bare(folder, node)
    yield Row(
        "… of that in `up`, once Python has started",
        f"{itself:.3f} s",
        f"{floor:.3f} s (the bare calls)",
        f"{itself / floor:.1f}x",
        "≤ 0.3 s",
        itself <= 0.3,
    )


def hundred(folder: Path, node: Node) -> Iterator[Row]:
    """`up` of a hundred containers that are as they should be, and the bare calls for it."""
    place = site(folder, node, 100)
    made(place, node)
    for name, seconds in (("", 0.0), (f", each answer {_FAR * 1000:.0f} ms late", _FAR)):
        node.ask(on_node.latency, seconds)
        ours = [_up(place, node) for _ in range(_TIMES)]
        floor, _ = _bare(folder, node)
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
    if not run.said.startswith("Nothing to do"):
        raise SystemExit(f"`up` was no no-op:\n{run.said}")
    return run.seconds, seen[0]


def _bare(folder: Path, node: Node) -> tuple[float, float]:
    """The reads that the last counted run has made, alone: median seconds, of the process and of the calls in it."""
    paths = folder / "paths.json"
    paths.write_text(json.dumps([node.port, f"PVEAPIToken={TOKEN}={SECRET}", node.ask(on_node.reads)]))
    runs = [ran([sys.executable, "-c", _FLOOR, str(paths)], folder) for _ in range(_TIMES)]
    return statistics.median(run.seconds for run in runs), statistics.median(float(run.said) for run in runs)
