"""The whole stack, deployed: a run that finds nothing to do, over lines of several lengths, and one changed file."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.peers.playbook import Playbook
from benchmarks.peers.playbook import Run as PeerRun
from benchmarks.peers.pyinfra import Deploy
from benchmarks.process import Ran, ran
from benchmarks.stack import Stack
from benchmarks.table import Row
from homelab.steps import Settings, SystemdUnit

_ROUNDS = 2  # of the peers, in turns
_OURS = 4  # runs of homelab in each round
_FAR_RUNS = 4  # over each length of line; the fastest counts
_RTT = (0.0, 0.010, 0.050)  # seconds
_BY_HAND = "/opt/analytics-platform/bin/gate"  # on which nothing depends
_SERVER = "postgres-data"
FAST = "Ansible, pipelining"
_AIMS = {
    "Ansible": ("faster", 1.0),
    FAST: ("≥ 20x", 20.0),
    "Ansible + mitogen": ("≥ 4x", 4.0),
    "pyinfra": ("≥ 4x", 4.0),
}


@dataclass
class Deployed:
    """The stack with everything in it, and the peers for it."""

    stack: Stack
    first: Ran  # the cold deploy
    runs: list[Ran] = field(default_factory=list)

    @cached_property
    def playbook(self) -> Playbook:
        """Ansible's playbook. It wants a Python over there, which PostgreSQL's container has no use for."""
        self.stack.on(
            _SERVER,
            "test -e /usr/bin/python3 || apt-get install -qq -y --no-install-recommends python3 >/dev/null 2>&1",
        )
        return playbook_of(self.stack)

    @cached_property
    def peers(self) -> dict[str, Callable[[], PeerRun]]:
        """How each peer is run."""
        deploy = pyinfra_of(self.stack)
        return {
            "pyinfra": deploy.run,
            **{
                name: lambda name=name: self.playbook.run(name)  # type: ignore[misc]
                for name in ("Ansible + mitogen", FAST, "Ansible")
            },
        }

    def noop(self) -> Ran:
        """A run of homelab's that finds nothing to do. Raises SystemExit if it was none."""
        run = self.stack.homelab("deploy")
        if run.said.count("nothing to change") != 3:
            raise SystemExit(f"The deploy was no no-op:\n{run.said}")
        self.runs.append(run)
        return run


def playbook_of(stack: Stack) -> Playbook:
    """Ansible's playbook for the stack."""
    return Playbook(_folder(stack), _hosts(stack), stack.secret_store.key_path("operator"), stack.known_hosts)


def pyinfra_of(stack: Stack) -> Deploy:
    """pyinfra's deploy for the stack."""
    return Deploy(_folder(stack), _hosts(stack), stack.secret_store.key_path("operator"), stack.known_hosts)


def _folder(stack: Stack) -> Path:
    return Path(tempfile.mkdtemp(prefix="peer-", dir=stack.folder))


def _hosts(stack: Stack) -> dict[str, tuple[str, Any]]:
    steps = stack.steps()
    return {c.name: (str(c.address), steps[c.name]) for c in stack.inventory.containers}


def noop(place: Deployed) -> Iterator[Row]:
    """A run that finds nothing to do, beside the peers'."""
    _all_see_a_change(place)
    place.noop()
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in place.peers}
    for turn in range(_ROUNDS):
        for name, run in place.peers.items():
            if turn and name == "Ansible":
                continue  # once is long enough
            ours += [place.noop().seconds for _ in range(_OURS // 2)]
            peer = run()
            print(f"  {name}: {peer.seconds:.1f} s, homelab {ours[-1]:.2f} s", file=sys.stderr, flush=True)
            if peer.changed:
                raise SystemExit(f"The run of {name} was no no-op: {peer.changed} changed.")
            theirs[name].append(peer.seconds)
    fast, steps = statistics.median(ours), sum(map(len, place.stack.steps().values()))
    yield Row(
        f"no-op `deploy`, whole stack, {steps} steps",
        f"{fast:.2f} s",
        f"{min(ours):.2f} s (the fastest)",
        "",
        "≤ 1.5 s",
        fast <= 1.5,
    )
    for name, (aim, least) in _AIMS.items():
        slow = statistics.median(theirs[name])
        yield Row(
            f"… beside {name}",
            f"{fast:.2f} s",
            f"{slow:.1f} s",
            f"{slow / fast:.1f}x faster",
            aim,
            slow / fast >= least,
        )


def _all_see_a_change(place: Deployed) -> None:
    """A file that was changed by hand is put back by each: so it can be believed that a run without a change was one.

    It also brings in what a peer wants over there for itself, as Ansible's python3-apt.
    """
    for name in ("homelab", "pyinfra", FAST):
        before = place.stack.on("analytics-platform", f"sha256sum {_BY_HAND}")
        place.stack.on("analytics-platform", f"echo '# by hand' >>{_BY_HAND}")
        if name == "homelab":
            changed = "1 changed" in place.stack.homelab("deploy").said
        else:
            changed = place.peers[name]().changed > 0
        if not changed or place.stack.on("analytics-platform", f"sha256sum {_BY_HAND}") != before:
            raise SystemExit(f"{name} does not see that {_BY_HAND} was changed by hand.")


def distance(place: Deployed) -> Iterator[Row]:
    """The same over lines of several lengths."""
    fastest, works, turns = {}, {}, 0
    for rtt in _RTT:
        runs = [
            ran(
                [sys.executable, "-m", "benchmarks.latency", str(rtt / 2), *map(str, place.stack.files)],
                place.stack.folder,
            )
            for _ in range(_FAR_RUNS)
        ]
        seen = [json.loads(run.said) for run in runs]
        fastest[rtt] = min(run.seconds for run in runs)
        works[rtt] = {name: min(each[name]["work"] for each in seen) for name in seen[0]}
        turns = max(turns, *(host["turns"] for each in seen for host in each.values()))
    far = _RTT[-1]
    slopes = {name: (works[far][name] - works[0.0][name]) / far for name in works[far]}
    yield Row(
        "round trips a container, after the handshake",
        f"{turns}",
        f"{max(slopes.values()):.1f} (from the time over the line's length)",
        "",
        "≤ 4",
        turns <= 4,
    )
    for rtt in _RTT[1:]:
        longer = fastest[rtt] - fastest[0.0]
        yield Row(
            f"no-op `deploy`, {rtt * 1000:.0f} ms further away",
            f"{fastest[rtt]:.2f} s",
            f"{fastest[0.0]:.2f} s (no further away)",
            f"{longer / rtt:.0f} round trips in all",
            "",
            True,
        )


def change(place: Deployed) -> Iterator[Row]:
    """One changed file: one that its server only has to read anew, and one for which it has to be restarted.

    Ansible's playbook restarts the server for both, as its handlers know of nothing else.
    """
    steps = place.stack.steps()[_SERVER]
    (unit,) = (step.unit for step in steps if isinstance(step, SystemdUnit))
    (file,) = (step.path for step in steps if isinstance(step, Settings))

    # In the container, without anybody who looks after it.
    alone = float(
        place.stack.on(
            _SERVER, f"s=$(date +%s.%N); systemctl restart {unit}; echo $s $(date +%s.%N) | awk '{{print $2 - $1}}'"
        )
    )
    ways = {
        "a reload": (f"echo '# by hand' >>{file}", ""),
        "the restart": (
            f"sed -i 's/^shared_buffers.*/shared_buffers = 99MB/' {file}; systemctl restart {unit}",
            f"; {alone:.1f} s (the restart alone)",
        ),
    }
    for way, (by_hand, beside) in ways.items():
        ours, theirs = [], []
        for _ in range(_ROUNDS):
            for _ in range(2):
                place.stack.on(_SERVER, by_hand)
                ours.append(_changed(place, unit, way == "the restart"))
            place.stack.on(_SERVER, by_hand)
            peer = place.playbook.run(FAST, limit=_SERVER)
            if peer.changed != 2:
                raise SystemExit(f"Not one file and one restart: {peer.changed} changed by Ansible")
            theirs.append(peer.seconds)
        fast, slow = statistics.median(ours), statistics.median(theirs)
        yield Row(
            f"one changed file, with {way} of PostgreSQL",
            f"{fast:.2f} s",
            f"{slow:.1f} s ({FAST}){beside}",
            f"{slow / fast:.1f}x faster",
            "≤ 2 s",
            fast <= 2,
        )


def _changed(place: Deployed, unit: str, restarts: bool) -> float:
    """Seconds that homelab takes to put one file back. Raises SystemExit if it does more than that, or less."""
    begun = f"systemctl show -P MainPID {unit}"
    before = place.stack.on(_SERVER, begun)
    run = place.stack.homelab("deploy", "--limit", _SERVER)
    if "1 changed" not in run.said or (place.stack.on(_SERVER, begun) != before) != restarts:
        raise SystemExit(f"Not one file, with{'' if restarts else 'out'} a restart:\n{run.said}")
    return run.seconds


def memory(place: Deployed) -> Iterator[Row]:
    """What the command line takes at its peak."""
    place.noop()
    most = max(run.peak for run in (place.first, *place.runs))
    yield Row(
        "memory of `homelab deploy` at its peak",
        f"{most:.0f} MB",
        f"{place.first.peak:.0f} MB (cold)",
        "",
        "≤ 150 MB",
        most <= 150,
    )
