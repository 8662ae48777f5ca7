"""The last step of each service: a wait until the service reports that it is healthy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv
from homelab.model import Health, Pending, Step

_INTERVAL = 0.5  # seconds


@dataclass(frozen=True, eq=False)
class HealthCheck(Step):
    """A service that has to be ready within the deadline, with all its units active; checked again after every change.

    A unit that systemd is about to restart, for example after an outage of its database, has the same deadline.
    The outcome of the service's last runs does not count: `homelab status` shows it.
    """

    name: str
    commands: Sequence[str]
    evaluate: Callable[[Sequence[Result]], Health]
    units: Sequence[str] = ()
    triggered_by: Sequence[Step] = ()
    deadline: float = 180  # seconds
    is_wait: ClassVar[bool] = True

    @property
    def title(self) -> str:
        """See Step."""
        return f"{self.name} is healthy"

    def probes(self) -> Sequence[str]:
        """See Step."""
        return (*self.commands, *([argv("systemctl", "is-active", *self.units)] if self.units else []))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        health = self.evaluate(answers[: len(self.commands)])
        if not health.ready:
            return Pending(health.summary)
        states = answers[-1].text.splitlines() if self.units else []
        ended = [f"{unit} is {state}" for unit, state in zip(self.units, states, strict=False) if state != "active"]
        return Pending("; ".join(ended)) if ended else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError at the deadline, with the last answer and the last lines of the journal."""
        until = time.monotonic() + self.deadline
        while (pending := self.check(host.batch(self.probes()))) is not None:
            if time.monotonic() > until:
                raise HomelabError(
                    f"Cannot finish the deploy of {self.name} on {host.name}: it is not healthy after "
                    f"{self.deadline:.0f} s",
                    "\n".join([pending.reason, *self._journal(host)]),
                    f"See `homelab logs {host.name}`; fix the cause, then run `homelab deploy` again.",
                )
            time.sleep(_INTERVAL)

    def _journal(self, host: Host) -> list[str]:
        if not self.units:
            return []
        units = [f"--unit={unit}" for unit in self.units]
        journal = host.run(argv("journalctl", "--no-pager", "--output=cat", "--lines=15", *units))
        return [f"  {line}" for line in journal.text.splitlines()]
