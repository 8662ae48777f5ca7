"""Commands with a check, and waits for other containers."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.model import ManagedResource, Pending, Step
from homelab.steps.known_errors import explain
from homelab.steps.root_only import guarded

_FIRST_INTERVAL = 0.5  # seconds between the first probe and the second


@dataclass(frozen=True, eq=False)
class Command(Step):
    """Shell text that runs until all commands of `done` succeed, and again after a step that triggers it has changed.

    `makes` are the resources that are removed once no step declares them any more, `writes` further paths that the
    command writes: it runs only if no other user can redirect that.
    """

    name: str
    done: str | tuple[str, ...]
    command: str
    stdin: bytes = b""
    timeout: float = 900  # seconds
    triggered_by: Sequence[Step] = ()
    makes: Sequence[ManagedResource] = ()
    writes: Sequence[str] = ()
    part: str = ""

    @property
    def title(self) -> str:
        """See Step."""
        return self.name

    def managed_resources(self) -> Sequence[ManagedResource]:
        """See Step."""
        return self.makes

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (self.done,) if isinstance(self.done, str) else self.done

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return None if all(answer.ok for answer in answers) else Pending("not done yet")

    def apply(self, host: Host) -> None:
        """See Step."""
        paths = [*(each.name for each in self.makes), *self.writes]
        text = guarded(self.command, *paths) if paths else self.command
        check(host, text, f"run `{self.name}`", stdin=self.stdin, timeout=self.timeout)


@dataclass(frozen=True, eq=False)
class Refuse(Step):
    """A check that ends a container's deploy with `error` if `probe` prints `t`.

    With `needs_answer`, a failed probe is pending, too: it is repeated before the steps that follow.
    """

    name: str
    probe: str
    error: HomelabError
    needs_answer: bool = False

    @property
    def title(self) -> str:
        """See Step."""
        return self.name

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (self.probe,)

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        if answers[0].ok and answers[0].text == "t":
            return Pending(self.error.brief, effect="refused")
        return Pending("not known yet") if self.needs_answer and not answers[0].ok else None

    def apply(self, host: Host) -> None:
        """See Step. Raises the error, or CommandFailed if the probe fails."""
        if check(host, self.probe, f"check `{self.name}`").text == "t":
            raise self.error


@dataclass(frozen=True, eq=False)
class WaitFor(Step):
    """A wait until `probe` succeeds: for another container, or for a slow start.

    `container` is the one that it waits for; the wait ends when the deploy of that container has failed (it is in
    `failed`). The probe is repeated after 0.5 s, then every `interval` seconds.

    A wait is skipped if no later step is pending. An `early` wait is probed together with the other steps: their probes
    have no valid answer before it succeeds, and are repeated after it. It triggers each unit that ends
    without the server: right after an outage, systemd may still have that unit as active.
    """

    name: str
    probe: str
    container: str
    failed: Collection[str] = ()
    deadline: float = 60  # seconds
    interval: float = 0.5  # seconds
    early: bool = False
    part: str = ""
    is_wait: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """See Step."""
        return self.name

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (self.probe,) if self.early else ()

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        return None if any(answer.ok for answer in answers) else Pending("not yet")

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError at the deadline, or as soon as the other container's deploy has failed."""
        until, pause = time.monotonic() + self.deadline, _FIRST_INTERVAL
        while not (result := host.run(self.probe, timeout=60)).ok:
            if self.container in self.failed:
                raise HomelabError(
                    f"Cannot continue on {host.name}: the deploy of {self.container} has failed",
                    f"It was waiting for this: {self.name}.",
                    f"Fix {self.container} first, then run `homelab deploy` again.",
                )
            if time.monotonic() > until:
                self._give_up(host, result)
            time.sleep(pause)
            pause = self.interval

    def _give_up(self, host: Host, result: Result) -> NoReturn:
        output = (result.text or result.stderr.decode(errors="replace"))[-1500:]
        see = f"See `homelab logs {self.container}`; fix the cause, then run `homelab deploy` again."
        cause, resolution = explain(output, host.name) or ("", see)
        raise HomelabError(
            f"Cannot continue on {host.name}: not within {self.deadline:.0f} s: {self.name}",
            "\n".join(part for part in (output, cause) if part),
            resolution,
        )
