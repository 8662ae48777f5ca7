"""Inspection of a host: all probes of all steps in one batch, and the pending changes that follow. Changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from homelab.host import Host, Result
from homelab.model import ManagedResource, Pending, Step
from homelab.steps import manifest, remote_paths
from homelab.steps.locking import busy_probe
from homelab.steps.queries import NO_CONNECTION, Query, merge_queries

_UNREACHABLE = "not reachable: roles and databases were not checked"


@dataclass(frozen=True)
class Change:
    """A pending step of a host, with its reason; `seconds` is its duration once it was applied."""

    step: Step
    pending: Pending
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.step.title}: {self.pending.reason}"


@dataclass(frozen=True)
class HostState:
    """The result of one batch of probes."""

    changes: list[Change]  # in the order of the steps, removals excluded
    unchecked: frozenset[Step]  # steps that query a server which is not reachable
    busy: bool  # a command of an earlier run is still running
    markers: frozenset[str]  # steps that an interrupted run still had to apply
    manifest: str  # the text of the host's manifest
    clock_offset: float  # seconds that its clock is at least ahead of ours


def pending_changes(host: Host, steps: Sequence[Step]) -> list[Change]:
    """Return the pending changes in order, removals first, from one round trip. Changes nothing.

    One change stands for all steps that could not be checked because PostgreSQL is not reachable.
    """
    state = inspect_host(host, steps)
    # A step that an unchecked one would trigger may be up to date. After a wait, it acts.
    unknown = {_because_of(step) for step in state.unchecked if not step.is_wait}
    checked = [
        change
        for change in state.changes
        if (change.step not in state.unchecked and change.pending.reason not in unknown) or change.pending.diff
    ]
    unreachable = [Change(Unreachable(), Pending(_UNREACHABLE, effect="not checked"))] if state.unchecked else []
    return [*removals(state, steps), *checked, *unreachable]


@dataclass(frozen=True, eq=False)
class Unreachable(Step):
    """A line of a plan for all steps of an unreachable server; it is never applied."""

    @property
    def title(self) -> str:
        """See Step."""
        return "PostgreSQL"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return ()

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return None

    def apply(self, host: Host) -> None:
        """See Step."""


def marker(step: Step) -> str:
    """Return the file name of the marker of a step."""
    return re.sub(r"[^A-Za-z0-9.@_-]+", "-", step.title)


def managed_by(steps: Sequence[Step]) -> frozenset[ManagedResource]:
    """Return the resources that homelab manages once all steps are applied."""
    return frozenset(resource for step in steps for resource in step.managed_resources())


def removals(state: HostState, steps: Sequence[Step]) -> list[Change]:
    """Return the removals of managed resources that no step declares any more, in order."""
    return [
        Change(manifest.RemoveResource(resource), manifest.removal(resource))
        for resource in manifest.orphaned(manifest.parse(state.manifest), managed_by(steps))
    ]


def inspect_host(host: Host, steps: Sequence[Step], due: Collection[str] | None = None) -> HostState:
    """Run all probes in one round trip. With `due`, only these markers make a step pending.

    Raises HomelabError when the host does not answer.
    """
    probes = [(index, probe) for index, step in enumerate(steps) for probe in step.probes()]
    before = time.time()
    # The busy probe ends before the others start: if it is idle, nothing was changing while they ran.
    commands, split_results = merge_queries(
        [
            busy_probe(),
            f"ls -A {remote_paths.markers()}",
            f"cat {remote_paths.manifest()}",
            "date +%s",
            *(probe for _, probe in probes),
        ]
    )
    busy, marked, listed, clock, *results = split_results(host.batch(commands))
    answers: dict[int, list[Result]] = {index: [] for index in range(len(steps))}
    for (index, _), result in zip(probes, results, strict=True):
        answers[index].append(result)
    markers = frozenset(marked.text.splitlines()) if marked.ok else frozenset()
    due_markers = markers if due is None else markers.intersection(due)
    return HostState(
        changes=_without_needless_waits(list(_pending(steps, answers, due_markers))),
        unchecked=frozenset(steps[index] for index in _unchecked(probes, results)),
        busy=not busy.ok,
        markers=markers,
        manifest=listed.stdout.decode(errors="replace"),
        clock_offset=clock_offset(int(clock.text), before, time.time()),
    )


def _unchecked(probes: Sequence[tuple[int, str]], results: Sequence[Result]) -> Iterator[int]:
    """Yield the steps with a query to which no server has answered."""
    statuses: dict[str, set[int]] = {}
    queries = [(index, probe, result) for (index, probe), result in zip(probes, results, strict=True)]
    for _, probe, result in queries:
        if isinstance(probe, Query):
            statuses.setdefault(probe.psql, set()).add(result.status)
    for index, probe, _ in queries:
        if isinstance(probe, Query) and statuses[probe.psql] == {NO_CONNECTION}:
            yield index


def clock_offset(clock: float, before: float, after: float) -> float:
    """Return the least seconds that a clock, read between two moments, is ahead; negative if it is behind."""
    return min(clock - before, 0) or max(clock - after, 0)


def _without_needless_waits(changes: Sequence[Change]) -> list[Change]:
    """Drop wait steps without a probe that no later change needs."""
    last = max((index for index, change in enumerate(changes) if not change.step.is_wait), default=-1)
    return [
        change
        for index, change in enumerate(changes)
        if index < last or not change.step.is_wait or change.step.probes()
    ]


def _pending(
    steps: Sequence[Step], answers: Mapping[int, Sequence[Result]], markers: Collection[str]
) -> Iterator[Change]:
    changing: set[Step] = set()
    for index, step in enumerate(steps):
        pending = step.check(answers[index])
        if pending is None and marker(step) in markers:
            pending = Pending("still to do after an interrupted run", effect=step.effect)
        if pending is None and (trigger := next((each for each in step.triggered_by if each in changing), None)):
            pending = Pending(_because_of(trigger), effect=step.effect)
        if pending is not None:
            changing.add(step)
            yield Change(step, pending)


def _because_of(trigger: Step) -> str:
    return f"because of {trigger.title}"
