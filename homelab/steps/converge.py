"""The convergence engine: one batch of probes, then only the pending steps, in order.

A step that is triggered by others has to act after they changed, even if the run is killed in between. So a marker for
each triggered step is written to the host before anything is changed; the step removes it once it has acted, and a
remaining marker makes it pending. In the same way, new resources are listed in the manifest before they are created.
Listed resources that no step declares any more are removed first.

After a lost connection the same run continues: it reconnects, waits for its last command to end, and inspects the host
again.
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
from homelab.steps.host_state import Change, HostState, inspect_host, managed_by, marker, removals
from homelab.steps.known_errors import explain
from homelab.steps.locking import Busy, LockedHost, wait_until_idle

_ATTEMPTS = 5  # of one run, each after a lost connection or an earlier run's command
REBOOT = 180.0  # seconds that a container may take until it answers again
_CLOCK_TOLERANCE = 60.0  # seconds
LONGEST = 1800.0  # seconds that a command of an earlier run may still take


def converge(host: Host, steps: Sequence[Step], progress: Progress) -> list[Change]:
    """Apply the pending steps, check that they took effect, and return the changes.

    Raises HomelabError when a step fails, when a step is still pending after it was applied, or when the connection is
    lost too often. After a failed step of a part, the steps outside this part are applied all the same.
    """
    run = _Run(host, steps, progress)
    previous_error: HomelabError | None = None
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            if previous_error:
                run.resume(previous_error)
            run.converge_once()
            break
        except (ConnectionLost, Busy) as error:
            if not attempts_left:
                raise
            previous_error = error
    run.raise_failed_parts()
    return list(run.changed.values())


class StepFailed(HomelabError):
    """A failed step: its error, the known cause if there is one, and the steps that were and were not applied.

    `changed` are the changes that the run made before it; for a step of a part, all changes of the run.
    """

    def __init__(
        self, host: str, error: HomelabError, step: Step, changed: Sequence[Change], after: Sequence[Change]
    ) -> None:
        # The known cause may be far above the last lines that are quoted: pip lists all hashes after it.
        stderr = error.result.stderr.decode(errors="replace") if isinstance(error, CommandFailed) else ""
        known = None if step.is_wait else explain(error.details, host) or explain(stderr, host)
        cause, resolution = known or ("", error.resolution)
        counts = ("Nothing was changed", "One change was made", f"{len(changed)} changes were made")
        made = counts[min(len(changed), 2)]
        titles = [change.step.title for change in after if not change.step.is_wait]
        rest = ", ".join(titles[:6]) + (f" and {len(titles) - 6} more" if len(titles) > 6 else "")
        half = "" if step.is_wait else f"`{step.title}` may be half done; "
        progress = f"{made} before it; {half}{f'not started: {rest}' if rest else 'no step comes after it'}."
        if step.part:
            progress = f"Of {step.part}, not started: {rest or 'nothing'}. Everything else on {host} is deployed."
        super().__init__(error.brief, "\n".join(part for part in (error.details, cause, progress) if part), resolution)
        self.step, self.changed = step, changed


class _Run:
    """One run on one host, over as many connections as it takes."""

    def __init__(self, host: Host, steps: Sequence[Step], progress: Progress) -> None:
        self._host, self._steps, self._progress = host, steps, progress
        self._locked_host = LockedHost(host, progress)
        self._failed_parts: dict[str, StepFailed] = {}
        self.changed: dict[str, Change] = {}

    def converge_once(self) -> None:
        """Inspect the host and apply the pending steps. After Busy or ConnectionLost it has to be called again."""
        state = inspect_host(self._host, self._steps)
        self._failed_parts.clear()
        if state.busy:
            raise Busy(f"Cannot change {self._host.name}: a command of an earlier run is still running")
        self._warn_of_clock(state)
        removed = removals(state, self._steps)
        changes = [*removed, *state.changes]
        if refused := [change for change in changes if change.pending.effect == "refused"]:
            # Before any change: a removal would stop the old version of a service, and its new one is refused.
            self._apply(refused[:1], [change for change in changes if change is not refused[0]])
        pending = {change.step for change in changes}
        self._report_unchanged([step for step in self._steps if step not in pending])
        ours = managed_by(self._steps)
        stale = state.markers - set(map(marker, self._steps))
        if changes:
            triggered = [marker(step) for change in changes for step in self._steps if change.step in step.triggered_by]
            self._write_notes({*ours, *manifest.parse(state.manifest)}, triggered)
            left = changes
            while left:
                count = batch_size([change.step for change in left])
                batch, left = left[:count], left[count:]
                try:
                    self._apply(batch, left)
                except StepFailed as failure:
                    left = self._without_failed_part(failure, [*batch, *left])
                    continue
                if batch[-1] in removed[-1:]:
                    self._write_notes(ours, ())  # removed resources leave the manifest, even if a later step fails
                if batch[-1].step.is_wait and batch[-1].step.probes():
                    left = self._still_pending(left, state.markers)
            applied = [change.step for change in changes if change.step.part not in self._failed_parts]
            self._require_applied(applied)
        if changes or stale or manifest.text(ours) != state.manifest.encode():
            self._write_notes(ours, (), stale)

    def _warn_of_clock(self, state: HostState) -> None:
        if abs(state.clock_offset) > _CLOCK_TOLERANCE:
            offset = f"{duration(abs(state.clock_offset))} {'ahead' if state.clock_offset > 0 else 'behind'}"
            self._progress.note(
                self._host.name,
                f"its clock is {offset}: set the clock of its node, or certificates and package lists will be refused",
            )

    def _report_unchanged(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self._progress.event(self._host.name, "unchanged", step=step.title)

    def _still_pending(self, left: Sequence[Change], markers: Collection[str]) -> list[Change]:
        """Return the changes of `left` that are pending after a wait: before it, their probes had no valid answer.

        `markers` are those that existed before this run.
        """
        if all(change.step.is_wait for change in left):
            return list(left)
        applied = {change.step for change in self.changed.values()}
        triggered = {marker(step) for step in self._steps if applied.intersection(step.triggered_by)}
        found = inspect_host(self._host, self._steps, {*markers, *triggered}).changes
        pending = {change.step: change for change in found}
        dropped = [change.step for change in left if change.step not in pending]
        if dropped:
            check(
                self._locked_host,
                f"cd {remote_paths.markers()}; rm -f {' '.join(quote(marker(step)) for step in dropped)}",
                "remove the markers of steps that are up to date",
            )
        self._report_unchanged(dropped)
        kept = [change for change in left if change.step in pending]
        return [change if marker(change.step) in triggered else pending[change.step] for change in kept]

    def _without_failed_part(self, failure: StepFailed, changes: Sequence[Change]) -> list[Change]:
        """Return the changes after the failed one, without those of its part. Raises a failure that has no part."""
        part = failure.step.part
        if not part:
            raise failure
        self._failed_parts[part] = failure
        position = [change.step for change in changes].index(failure.step)
        return [change for change in changes[position + 1 :] if change.step.part != part]

    def raise_failed_parts(self) -> None:
        """Raise the failure of a part; further ones are in its details."""
        if self._failed_parts:
            failure, *others = self._failed_parts.values()
            failure.details = "\n\n".join([failure.details, *map(str, others)])
            failure.changed = list(self.changed.values())
            raise failure

    def _require_applied(self, steps: Sequence[Step]) -> None:
        # Wait steps are not checked again: they guarantee their condition only when they return.
        if left := inspect_host(self._host, [step for step in steps if not step.is_wait]).changes:
            raise left[0].step.not_applied(self._host, left[0].pending)

    def resume(self, error: HomelabError) -> None:
        """Reconnect if the connection was lost, and wait for the end of the command that is still running."""
        name, lost = self._host.name, isinstance(error, ConnectionLost)
        self._progress.note(name, f"{error.brief}; homelab waits, then inspects it again")
        with self._progress.step(name, "waiting until it answers again" if lost else "waiting for the command's end"):
            if lost:
                self._host.reconnect(REBOOT)
            wait_until_idle(self._host, LONGEST)

    def _write_notes(
        self, ours: Collection[ManagedResource], markers: Collection[str], stale: Collection[str] = ()
    ) -> None:
        """Write the manifest, add markers, and remove stale markers of steps that no longer exist."""
        # A kill may leave this file among the markers; as no step has its name, the next run removes it as stale.
        new = "manifest.new"
        check(
            self._locked_host,
            "\n".join(
                [
                    f"set -e; mkdir -p {remote_paths.markers()}; cd {remote_paths.markers()}",
                    f"cat >{new}; sync {new}; mv -fT {new} {remote_paths.manifest()}",
                    f"touch {' '.join(map(quote, sorted({*markers})))} .",
                    f"rm -f {' '.join(map(quote, sorted(stale)))}",
                ]
            ),
            "write the manifest",
            stdin=manifest.text(ours),
        )

    def _apply(self, batch: Sequence[Change], after: Sequence[Change]) -> None:
        """Apply the changes of one batch; `after` are the changes that follow it."""
        steps, host = [change.step for change in batch], self._host.name
        started, done = time.monotonic(), list[Change]()
        try:
            with self._progress.step(host, batch_title(steps)):
                for change, seconds in zip(batch, apply_batch(self._locked_host, steps, _remove_marker), strict=True):
                    done.append(replace(change, seconds=seconds))
        except Busy:
            raise
        except ConnectionLost:
            # The steps may have been applied nevertheless: then the next inspection finds nothing pending.
            seconds = time.monotonic() - started
            self.changed |= {change.step.title: replace(change, seconds=seconds) for change in batch}
            raise
        except HomelabError as error:
            failed, *rest = batch[len(done) :]
            self._report_changes(done)
            seconds = time.monotonic() - started - sum(change.seconds for change in done)
            self._progress.event(
                host,
                "failed",
                step=failed.step.title,
                seconds=round(seconds, 3),
                reason=failed.pending.reason,
                error=str(error),
            )
            part, following = failed.step.part, [*rest, *after]
            if part:
                following = [change for change in following if change.step.part == part]
            raise StepFailed(host, error, failed.step, list(self.changed.values()), following) from error
        self._report_changes(done)

    def _report_changes(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.changed[change.step.title] = change
            self._progress.event(
                self._host.name,
                "waited" if change.step.is_wait else "changed",
                step=change.step.title,
                seconds=round(change.seconds, 3),
                reason=change.pending.reason,
            )


def _remove_marker(step: Step) -> str:
    """Return the shell text that removes the marker of a step; "" for a step that has none."""
    return f"rm -f {remote_paths.markers()}/{quote(marker(step))}" if step.triggered_by else ""
