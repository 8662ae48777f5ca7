"""Commands with a check, and waits."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, check
from homelab.model import ManagedResource, Pending, Step

_SOON = 0.5  # seconds between the first question and the second


@dataclass(frozen=True, eq=False)
class Command(Step):
    """Shell text that has to run until `done`, all of it, succeeds, and again when what it watches has changed.

    `makes` is what it leaves that may be removed once nobody wants the step any more.
    """

    name: str
    done: str | tuple[str, ...]
    command: str
    stdin: bytes = b""
    timeout: float = 900  # seconds
    triggered_by: Sequence[Step] = ()
    makes: Sequence[ManagedResource] = ()

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
        check(host, self.command, self.name, stdin=self.stdin, timeout=self.timeout)


@dataclass(frozen=True, eq=False)
class WaitFor(Step):
    """Something outside this host, or slow to come up, that has to be there before the next step.

    `container` is the one that is waited for; when its own deploy has failed (it is in `failed`), waiting ends.
    It is asked again soon after the first time, then every `every` seconds.

    Where nothing after it is to be done, it is not asked at all. One that is `early` is: without what it waits for,
    probes of other steps have no answer, and are asked again after it.
    """

    name: str
    probe: str
    container: str
    failed: Collection[str] = ()
    deadline: float = 60  # seconds
    diagnose: str = ""
    every: float = 0.5  # seconds
    early: bool = False
    waits: ClassVar[bool] = True

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
        """See Step. Raises HomelabError at the deadline, or as soon as waiting has become pointless."""
        until, pause = time.monotonic() + self.deadline, _SOON
        while not (result := host.run(self.probe, timeout=60)).ok:
            if self.container in self.failed:
                raise HomelabError(
                    f"{host.name}: gave up: {self.name}",
                    f"The deploy of {self.container} has failed.",
                    "Mend that first, then run `homelab deploy` again.",
                )
            if time.monotonic() > until:
                said = host.run(self.diagnose).text if self.diagnose else (result.text or result.stderr.decode())
                raise HomelabError(
                    f"{host.name}: {self.name}: not within {self.deadline:.0f} s",
                    said[-1500:],
                    f"Look at `homelab logs {self.container}`, then run `homelab deploy` again.",
                )
            time.sleep(pause)
            pause = self.every
