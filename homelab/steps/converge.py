"""Brings a host to where its steps want it: one batch of probes, then only what is pending, in order.

A step that watches others has to act after they changed, also when the run is killed in between. So before
anything is changed, a marker for each watcher is put down on the host; the watcher takes it away when it has
acted, and a marker that is found means that the action is still owed. In the same way, what is about to be made is
first listed in the manifest, and what it lists and no step wants any more is removed before all else.

A lost connection is like a killed run, and the same run goes on: it connects again, waits for the end of what it
had begun there, and looks at everything anew.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from shlex import quote

from homelab.errors import HomelabError
from homelab.host import CommandFailed, ConnectionLost, Host, check
from homelab.model import ManagedResource, Step
from homelab.progress import Progress, duration
from homelab.steps import manifest, remote_paths
from homelab.steps.batching import apply_batch, batch_size, batch_title
from homelab.steps.host_state import Change, inspect_host, managed_by, marker, removals
from homelab.steps.known_errors import explain
from homelab.steps.locking import Busy, LockedHost, wait_until_idle

_LOSSES = 5  # times that one run takes up a lost connection again
REBOOT = 180.0  # seconds that a container has to answer again
_OFF = 60.0  # seconds that a container's clock may differ from ours
LONGEST = 1800.0  # seconds that what an earlier run began may still take


def converge(host: Host, steps: Sequence[Step], progress: Progress) -> list[Change]:
    """Apply what is pending, and look again whether it took. Returns what was changed.

    Raises HomelabError from the step that failed, or when a step still wants to act after it has acted, or when the
    connection was lost too often.
    """
    run = _Run(host, steps, progress)
    before: HomelabError | None = None
    for left in reversed(range(_LOSSES)):
        try:
            if before:
                run.take_up_again(before)
            run.once()
            break
        except (ConnectionLost, Busy) as error:
            if not left:
                raise
            before = error
    return list(run.changed.values())


class StepFailed(HomelabError):
    """A step that failed: why, what that means where we know it, and what is now half done.

    `changed` is what the run had changed before.
    """

    def __init__(
        self, host: str, error: HomelabError, step: Step, changed: Sequence[Change], after: Sequence[Change]
    ) -> None:
        # What it means may stand far above the last lines that are shown, as where pip lists all hashes.
        said = error.result.stderr.decode(errors="replace") if isinstance(error, CommandFailed) else ""
        known = None if step.waits else explain(error.details, host) or explain(said, host)
        says, todo = known or ("", error.resolution)
        made = ("Nothing was changed", "One change was made", f"{len(changed)} changes were made")[min(len(changed), 2)]
        left = [change.step.title for change in after if not change.step.waits]
        rest = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
        half = "" if step.waits else f"`{step.title}` may be half done; "
        super().__init__(
            error.brief,
            "\n".join(
                part
                for part in (
                    error.details,
                    says,
                    f"{made} before it; {half}{f'not begun: {rest}' if rest else 'nothing was to come after it'}.",
                )
                if part
            ),
            todo,
        )
        self.changed = changed


class _Run:
    """One run on one host, over as many connections as it takes."""

    def __init__(self, host: Host, steps: Sequence[Step], progress: Progress) -> None:
        self._host, self._steps, self._progress = host, steps, progress
        self._alone = LockedHost(host, progress)
        self.changed: dict[str, Change] = {}

    def once(self) -> None:
        """Look, and bring about what is pending. Raises Busy, ConnectionLost: then it has to be called again."""
        seen = inspect_host(self._host, self._steps)
        if seen.busy:
            raise Busy(f"{self._host.name}: what an earlier run has begun is still going on")
        if abs(seen.off) > _OFF:
            off = f"{duration(abs(seen.off))} {'ahead' if seen.off > 0 else 'behind'}"
            self._progress.note(
                self._host.name,
                f"its clock is {off}: set that of its node, or certificates and package lists will be refused",
            )
        gone = removals(seen, self._steps)
        changes = [*gone, *seen.changes]
        pending = {change.step for change in changes}
        for step in self._steps:
            if step not in pending:
                self._progress.event(self._host.name, "unchanged", step=step.title)
        ours = managed_by(self._steps)
        stale = seen.owed - set(map(marker, self._steps))
        if changes:
            self._note(
                {*ours, *manifest.parse(seen.listed)},
                [marker(w) for c in changes for w in self._steps if c.step in w.triggered_by],
            )
            left = changes
            while left:
                count = batch_size([change.step for change in left])
                now, left = left[:count], left[count:]
                self._apply(now, left)
                if now[-1] in gone[-1:]:
                    self._note(ours, ())  # what is gone is not listed any more, whatever becomes of the rest
                if now[-1].step.waits and now[-1].step.probes():
                    left = self._still_pending(left, seen.owed)
            self._require_taken([change.step for change in changes])
        if changes or stale or manifest.text(ours) != seen.listed.encode():
            self._note(ours, (), stale)

    def _still_pending(self, left: Sequence[Change], owed: Collection[str]) -> list[Change]:
        """What is still to be done after something was waited for: without it, what a step asked had no answer.

        `owed` are the markers that stood there before this run.
        """
        if all(change.step.waits for change in left):
            return list(left)
        acted = {change.step for change in self.changed.values()}
        due = {*owed, *(marker(step) for step in self._steps if acted.intersection(step.triggered_by))}
        pending = {change.step for change in inspect_host(self._host, self._steps, due).changes}
        dropped = [change.step for change in left if change.step not in pending]
        if dropped:
            check(
                self._alone,
                f"cd {remote_paths.owed()}; rm -f {' '.join(quote(marker(step)) for step in dropped)}",
                "noting what is not owed",
            )
        for step in dropped:
            self._progress.event(self._host.name, "unchanged", step=step.title)
        return [change for change in left if change.step in pending]

    def _require_taken(self, steps: Sequence[Step]) -> None:
        # What waits has ended as what it asked for was so; that it is still so at this moment was not its promise.
        if left := inspect_host(self._host, [step for step in steps if not step.waits]).changes:
            raise HomelabError(
                f"{self._host.name}: {left[0].step.title} did not take",
                f"It ran without an error, and still: {left[0].pending.reason}.",
                "Something else changes it at the same time, or this is a fault of homelab's.",
            )

    def take_up_again(self, after: HomelabError) -> None:
        """Get the connection back if it was lost, and wait for the end of what runs there."""
        name, lost = self._host.name, isinstance(after, ConnectionLost)
        self._progress.note(name, f"{after.brief.removeprefix(f'{name}: ')}: waiting, then looking at everything again")
        with self._progress.step(name, "waiting for it to answer again" if lost else "waiting for its end"):
            if lost:
                self._host.reconnect(REBOOT)
            wait_until_idle(self._host, LONGEST)

    def _note(self, ours: Collection[ManagedResource], owed: Collection[str], stale: Collection[str] = ()) -> None:
        """List what is ours, and put down markers for what is owed; take away those of steps that are no more."""
        # What a kill leaves of it among the markers is taken for one of a step that is no more, and goes as those do.
        new = "manifest.new"
        check(
            self._alone,
            "\n".join(
                [
                    f"set -e; mkdir -p {remote_paths.owed()}; cd {remote_paths.owed()}",
                    f"cat >{new}; sync {new}; mv -fT {new} {remote_paths.manifest()}",
                    f"touch {' '.join(map(quote, sorted({*owed})))} .",
                    f"rm -f {' '.join(map(quote, sorted(stale)))}",
                ]
            ),
            "noting what is ours",
            stdin=manifest.text(ours),
        )

    def _apply(self, now: Sequence[Change], after: Sequence[Change]) -> None:
        """Do what goes over together; `after` is what comes then."""
        steps, host, started, done = [change.step for change in now], self._host.name, time.monotonic(), list[Change]()
        try:
            with self._progress.step(host, batch_title(steps)):
                for change, seconds in zip(now, apply_batch(self._alone, steps, _settled), strict=True):
                    done.append(replace(change, seconds=seconds))
        except Busy:
            raise
        except ConnectionLost:
            # They may have acted nevertheless: then the next look finds nothing to do.
            self.changed |= {change.step.title: replace(change, seconds=time.monotonic() - started) for change in now}
            raise
        except HomelabError as error:
            failed, *rest = now[len(done) :]
            self._done(done)
            seconds = time.monotonic() - started - sum(change.seconds for change in done)
            self._progress.event(
                host,
                "failed",
                step=failed.step.title,
                seconds=round(seconds, 3),
                reason=failed.pending.reason,
                error=str(error),
            )
            raise StepFailed(host, error, failed.step, list(self.changed.values()), [*rest, *after]) from error
        self._done(done)

    def _done(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.changed[change.step.title] = change
            self._progress.event(
                self._host.name,
                "waited" if change.step.waits else "changed",
                step=change.step.title,
                seconds=round(change.seconds, 3),
                reason=change.pending.reason,
            )


def _settled(step: Step) -> str:
    """Shell text that notes that a step does not owe anything any more; none for a step that never did."""
    return f"rm -f {remote_paths.owed()}/{quote(marker(step))}" if step.triggered_by else ""
