"""The last step of each service: that it says itself that it works."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv
from homelab.model import Health, Pending, Step

_EVERY = 0.5  # seconds between two questions


@dataclass(frozen=True, eq=False)
class HealthCheck(Step):
    """A service that has to say, within the deadline, that it works; asked again after anything has changed.

    How its last runs went does not matter here: that is for `homelab status`.
    """

    name: str
    asks: Sequence[str]
    judge: Callable[[Sequence[Result]], Health]
    units: Sequence[str] = ()
    triggered_by: Sequence[Step] = ()
    deadline: float = 180  # seconds
    waits: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """See Step."""
        return f"{self.name} works"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return self.asks

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        health = self.judge(answers)
        return None if health.ready else Pending(health.summary)

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError at the deadline, with what it said last and the journal's last lines."""
        until = time.monotonic() + self.deadline
        while (pending := self.check(host.batch(self.asks))) is not None:
            if time.monotonic() > until:
                raise HomelabError(
                    f"{host.name}: {self.name} does not work after the deploy",
                    "\n".join([f"{pending.reason} (asked for {self.deadline:.0f} s)", *self._journal(host)]),
                    f"See `homelab logs {host.name}`; mend the cause and run `homelab deploy` again.",
                )
            time.sleep(_EVERY)

    def _journal(self, host: Host) -> list[str]:
        if not self.units:
            return []
        units = [f"--unit={unit}" for unit in self.units]
        said = host.run(argv("journalctl", "--no-pager", "--output=cat", "--lines=15", *units))
        return [f"  {line}" for line in said.text.splitlines()]
