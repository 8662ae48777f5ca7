"""The deployed stack: a run without changes, over lines of several latencies, and one changed file."""

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
from benchmarks.process import ProgramRun, run_program
from benchmarks.stack import Stack
from benchmarks.table import Row
from homelab.steps import Settings, SystemdUnit

_ROUNDS = 2  # of the peers, in turns
_OURS = 4  # runs of homelab in each round
_LATENCY_RUNS = 4  # for each latency; the fastest counts
_RTT = (0.0, 0.010, 0.050)  # seconds
_EDITED = "/opt/analytics-platform/bin/gate"  # triggers no other step
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
    """The deployed stack, and its peers."""

    stack: Stack
    first: ProgramRun  # the cold deploy
    runs: list[ProgramRun] = field(default_factory=list)

    @cached_property
    def playbook(self) -> Playbook:
        """Ansible's playbook. It requires Python in PostgreSQL's container, which homelab does not."""
        self.stack.on(
            _SERVER,
            "test -e /usr/bin/python3 || apt-get install -qq -y --no-install-recommends python3 >/dev/null 2>&1",
        )
        return playbook_of(self.stack)

    @cached_property
    def peers(self) -> dict[str, Callable[[], PeerRun]]:
        """The function that runs each peer."""
        deploy = pyinfra_of(self.stack)
        return {
            "pyinfra": deploy.run,
            **{
                name: lambda name=name: self.playbook.run(name)  # type: ignore[misc]
                for name in ("Ansible + mitogen", FAST, "Ansible")
            },
        }

    def noop(self) -> ProgramRun:
        """Run a deploy without changes. Raises SystemExit if it made changes."""
        run = self.stack.homelab("deploy")
        if run.output.count("nothing to change") != 3:
            raise SystemExit(f"Cannot compare: the deploy made changes:\n{run.output}")
        self.runs.append(run)
        return run


def playbook_of(stack: Stack) -> Playbook:
    """Return Ansible's playbook for the stack."""
    return Playbook(_folder(stack), _hosts(stack), stack.secret_store.key_path("operator"), stack.known_hosts)


def pyinfra_of(stack: Stack) -> Deploy:
    """Return pyinfra's deploy for the stack."""
    return Deploy(_folder(stack), _hosts(stack), stack.secret_store.key_path("operator"), stack.known_hosts)


def _folder(stack: Stack) -> Path:
    return Path(tempfile.mkdtemp(prefix="peer-", dir=stack.folder))


def _hosts(stack: Stack) -> dict[str, tuple[str, Any]]:
    steps = stack.steps()
    return {c.name: (str(c.address), steps[c.name]) for c in stack.inventory.containers}


def noop(place: Deployed) -> Iterator[Row]:
    """Compare a run without changes with the peers."""
    _require_change_detection(place)
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
                raise SystemExit(f"Cannot compare {name}: its run made {peer.changed} changes.")
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
            f"… compared with {name}",
            f"{fast:.2f} s",
            f"{slow:.1f} s",
            f"{slow / fast:.1f}x faster",
            aim,
            slow / fast >= least,
        )


def _require_change_detection(place: Deployed) -> None:
    """Check that each tool reverts a change by hand, so that a run without changes is credible.

    This also installs the peers' own prerequisites, such as python3-apt for Ansible.
    """
    for name in ("homelab", "pyinfra", FAST):
        before = place.stack.on("analytics-platform", f"sha256sum {_EDITED}")
        place.stack.on("analytics-platform", f"echo '# by hand' >>{_EDITED}")
        if name == "homelab":
            changed = "1 changed" in place.stack.homelab("deploy").output
        else:
            changed = place.peers[name]().changed > 0
        if not changed or place.stack.on("analytics-platform", f"sha256sum {_EDITED}") != before:
            raise SystemExit(f"Cannot compare {name}: it does not revert a change of {_EDITED} by hand.")


def distance(place: Deployed) -> Iterator[Row]:
    """Measure a run without changes over lines of several latencies."""
    fastest, works, turns = {}, {}, 0
    for rtt in _RTT:
        runs = [
            run_program(
                [sys.executable, "-m", "benchmarks.latency", str(rtt / 2), *map(str, place.stack.files)],
                place.stack.folder,
            )
            for _ in range(_LATENCY_RUNS)
        ]
        seen = [json.loads(run.output) for run in runs]
        fastest[rtt] = min(run.seconds for run in runs)
        works[rtt] = {name: min(each[name]["work"] for each in seen) for name in seen[0]}
        turns = max(turns, *(host["turns"] for each in seen for host in each.values()))
    longest = _RTT[-1]
    slopes = {name: (works[longest][name] - works[0.0][name]) / longest for name in works[longest]}
    yield Row(
        "round trips per container, after the handshake",
        f"{turns}",
        f"{max(slopes.values()):.1f} (from the time over the latency)",
        "",
        "≤ 4",
        turns <= 4,
    )
    for rtt in _RTT[1:]:
        longer = fastest[rtt] - fastest[0.0]
        yield Row(
            f"no-op `deploy`, with a round trip of {rtt * 1000:.0f} ms",
            f"{fastest[rtt]:.2f} s",
            f"{fastest[0.0]:.2f} s (without delay)",
            f"{longer / rtt:.0f} round trips in all",
            "",
            True,
        )


def change(place: Deployed) -> Iterator[Row]:
    """Measure one changed file: one for which the server is reloaded, and one for which it is restarted.

    Ansible's playbook restarts the server for both.
    """
    steps = place.stack.steps()[_SERVER]
    (unit,) = (step.unit for step in steps if isinstance(step, SystemdUnit))
    (file,) = (step.path for step in steps if isinstance(step, Settings))

    # In the container, without homelab.
    alone = float(
        place.stack.on(
            _SERVER, f"s=$(date +%s.%N); systemctl restart {unit}; echo $s $(date +%s.%N) | awk '{{print $2 - $1}}'"
        )
    )
    cases = {
        "a reload": (f"echo '# by hand' >>{file}", ""),
        "the restart": (
            f"sed -i 's/^shared_buffers.*/shared_buffers = 99MB/' {file}; systemctl restart {unit}",
            f"; {alone:.1f} s (the restart alone)",
        ),
    }
    for effect, (by_hand, reference) in cases.items():
        ours, theirs = [], []
        for _ in range(_ROUNDS):
            for _ in range(2):
                place.stack.on(_SERVER, by_hand)
                ours.append(_changed(place, unit, effect == "the restart"))
            place.stack.on(_SERVER, by_hand)
            peer = place.playbook.run(FAST, limit=_SERVER)
            if peer.changed != 2:
                raise SystemExit(f"Cannot compare: Ansible made {peer.changed} changes instead of 2")
            theirs.append(peer.seconds)
        fast, slow = statistics.median(ours), statistics.median(theirs)
        yield Row(
            f"one changed file, with {effect} of PostgreSQL",
            f"{fast:.2f} s",
            f"{slow:.1f} s ({FAST}){reference}",
            f"{slow / fast:.1f}x faster",
            "≤ 2 s",
            fast <= 2,
        )


def _changed(place: Deployed, unit: str, restarts: bool) -> float:
    """Measure the seconds in which homelab restores one file. Raises SystemExit after any other change."""
    main_pid = f"systemctl show -P MainPID {unit}"
    before = place.stack.on(_SERVER, main_pid)
    run = place.stack.homelab("deploy", "--limit", _SERVER)
    if "1 changed" not in run.output or (place.stack.on(_SERVER, main_pid) != before) != restarts:
        raise SystemExit(f"Cannot measure one file with{'' if restarts else 'out'} a restart:\n{run.output}")
    return run.seconds


def memory(place: Deployed) -> Iterator[Row]:
    """Measure the peak memory of the command line."""
    place.noop()
    peak = max(run.peak for run in (place.first, *place.runs))
    yield Row(
        "peak memory of `homelab deploy`",
        f"{peak:.0f} MB",
        f"{place.first.peak:.0f} MB (cold)",
        "",
        "≤ 150 MB",
        peak <= 150,
    )
