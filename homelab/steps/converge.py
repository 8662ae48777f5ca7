"""Brings a host to where its steps want it: one batch of probes, then only what is pending, in order.

A step that watches others has to act after they changed, also when the run is killed in between. So before
anything is changed, a marker for each watcher is put down on the host; the watcher takes it away when it has
acted, and a marker that is found means that the action is still owed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.model import Pending, Step
from homelab.progress import Progress

OWED = "/var/lib/homelab/owed"


@dataclass(frozen=True)
class Change:
    """A step that has something to do on a host, and why."""

    step: Step
    pending: Pending

    def __str__(self) -> str:
        return f"{self.step.title}: {self.pending.reason}"


def survey(host: Host, steps: Sequence[Step]) -> list[Change]:
    """What is pending, in order, from one round trip. Changes nothing."""
    return list(_pending(steps, *_ask(host, steps)))


def converge(host: Host, steps: Sequence[Step], progress: Progress) -> list[Change]:
    """Apply what is pending, and look again whether it took. Returns what was changed.

    Raises HomelabError from the step that failed, or when a step still wants to act after it has acted.
    """
    changes = survey(host, steps)
    if not changes:
        return []
    watchers = {c.step.title: [w for w in steps if c.step in w.watches] for c in changes}
    owed = sorted({marker(w) for ws in watchers.values() for w in ws})
    check(host, f"mkdir -p {OWED} && cd {OWED} && touch {' '.join(map(quote, owed))} .", "noting what is owed")
    for change in changes:
        with progress.step(host.name, change.step.title):
            change.step.apply(host)
            if change.step.watches:
                check(host, f"rm -f {OWED}/{quote(marker(change.step))}", "noting what is done")
    left = survey(host, [change.step for change in changes])
    if left:
        raise HomelabError(f"{host.name}: {left[0].step.title} did not take",
                           f"It ran without an error, and still: {left[0].pending.reason}.",
                           "Something else changes it at the same time, or this is a fault of homelab's.")
    return changes


def marker(step: Step) -> str:
    """The name of the marker for what a step owes."""
    return re.sub(r"[^A-Za-z0-9.@_-]+", "-", step.title)


def _ask(host: Host, steps: Sequence[Step]) -> tuple[Mapping[int, Sequence[Result]], set[str]]:
    probes = [(index, probe) for index, step in enumerate(steps) for probe in step.probes()]
    owed, *results = host.batch([f"ls -A {OWED}", *(probe for _, probe in probes)])
    answers: dict[int, list[Result]] = {index: [] for index in range(len(steps))}
    for (index, _), result in zip(probes, results, strict=True):
        answers[index].append(result)
    return answers, set(owed.text.splitlines()) if owed.ok else set()


def _pending(steps: Sequence[Step], answers: Mapping[int, Sequence[Result]], owed: set[str]) -> Iterator[Change]:
    changing: set[Step] = set()
    for index, step in enumerate(steps):
        pending = step.pending(answers[index])
        if pending is None and marker(step) in owed:
            pending = Pending("still owed from a run that was cut off")
        if pending is None and (cause := next((w for w in step.watches if w in changing), None)):
            pending = Pending(f"because of {cause.title}")
        if pending is not None:
            changing.add(step)
            yield Change(step, pending)
