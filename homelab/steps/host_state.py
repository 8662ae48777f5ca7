"""Looking at a host: all probes of all steps in one batch, and what follows from the answers. Changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homelab.host import Host, Result
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import manifest, remote_paths
from homelab.steps.locking import busy_probe
from homelab.steps.queries import merge_queries


@dataclass(frozen=True)
class Change:
    """A step that has something to do on a host, and why; `seconds` is what it took, once it was done."""

    step: Step
    pending: Pending
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.step.title}: {self.pending.reason}"


@dataclass(frozen=True)
class HostState:
    """What one batch of probes has shown."""

    changes: list[Change]
    busy: bool
    owed: frozenset[str]
    listed: str  # the manifest, as it is there
    off: float  # seconds that its clock is ahead of ours, at least


def pending_changes(host: Host, steps: Sequence[Step]) -> list[Change]:
    """What is pending, in order, from one round trip. Changes nothing."""
    seen = inspect_host(host, steps)
    return [*removals(seen, steps), *seen.changes]


def marker(step: Step) -> str:
    """The name of the marker for what a step owes."""
    return re.sub(r"[^A-Za-z0-9.@_-]+", "-", step.title)


def managed_by(steps: Sequence[Step]) -> frozenset[ManagedResource]:
    """What is ours once all steps have acted."""
    return frozenset(owned for step in steps for owned in step.managed_resources())


def removals(seen: HostState, steps: Sequence[Step]) -> list[Change]:
    """What is ours over there and no step wants any more, in the order in which it goes."""
    return [
        Change(manifest.RemoveResource(owned), Pending("no longer in the inventory"))
        for owned in manifest.orphaned(manifest.parse(seen.listed), managed_by(steps))
    ]


def inspect_host(host: Host, steps: Sequence[Step], due: Collection[str] | None = None) -> HostState:
    """Ask all probes in one round trip; of the markers, only those `due` count, if given.

    Raises HomelabError when the answers do not come.
    """
    probes = [(index, probe) for index, step in enumerate(steps) for probe in step.probes()]
    before = time.time()
    # The first is answered before the others are asked: what they see was not being changed any more.
    commands, taken_apart = merge_queries(
        [
            busy_probe(),
            f"ls -A {remote_paths.owed()}",
            f"cat {remote_paths.manifest()}",
            "date +%s",
            *(probe for _, probe in probes),
        ]
    )
    busy, owed, listed, clock, *results = taken_apart(host.batch(commands))
    answers: dict[int, list[Result]] = {index: [] for index in range(len(steps))}
    for (index, _), result in zip(probes, results, strict=True):
        answers[index].append(result)
    markers = frozenset(owed.text.splitlines()) if owed.ok else frozenset()
    counting = markers if due is None else markers.intersection(due)
    return HostState(
        _needed(list(_pending(steps, answers, counting))),
        not busy.ok,
        markers,
        listed.stdout.decode(errors="replace"),
        clock_offset(int(clock.text), before, time.time()),
    )


def clock_offset(clock: float, before: float, after: float) -> float:
    """Seconds by which a clock that was read between two moments is ahead, at least; negative if it is behind."""
    return min(clock - before, 0) or max(clock - after, 0)


def _needed(changes: Sequence[Change]) -> list[Change]:
    """Without the waits that were not asked and have nothing after them that has to be done."""
    last = max((index for index, change in enumerate(changes) if not change.step.waits), default=-1)
    return [
        change for index, change in enumerate(changes) if index < last or not change.step.waits or change.step.probes()
    ]


def _pending(steps: Sequence[Step], answers: Mapping[int, Sequence[Result]], owed: Collection[str]) -> Iterator[Change]:
    changing: set[Step] = set()
    for index, step in enumerate(steps):
        pending = step.check(answers[index])
        if pending is None and marker(step) in owed:
            pending = Pending("still owed from a run that was cut off")
        if pending is None and (cause := next((w for w in step.triggered_by if w in changing), None)):
            pending = Pending(f"because of {cause.title}")
        if pending is not None:
            changing.add(step)
            yield Change(step, pending)
