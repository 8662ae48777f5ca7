"""The last step of each service: a wait until the service reports that it is healthy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from homelab.errors import HomelabError
from homelab.host import Host, Result, argv
from homelab.model import Health, Pending, Step
from homelab.steps.known_errors import explain, known_error
from homelab.steps.units import journal_end, not_active

_INTERVAL = 0.5  # seconds
_ENDS = 3  # of a unit in one wait, after which its journal is read


@dataclass(frozen=True, eq=False)
class HealthCheck(Step):
    """A service that has to be ready within the deadline, with all its units active; checked again after every change.

    A unit that systemd is about to restart, for example after an outage of its database, has the same deadline, unless
    it ends again and again of a cause that does not pass: on a slow machine, a program may find its port taken only
    long after its start.
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
        states = argv("systemctl", "show", "--property=ActiveState,NRestarts", *self.units)
        return (*self.commands, *([states] if self.units else []))

    def check(self, answers: Sequence[Result]) -> Pending | None:
        """See Step."""
        health = self.evaluate(answers[: len(self.commands)])
        if not health.ready:
            return Pending(health.summary)
        states = {unit: shown.get("ActiveState", "missing") for unit, shown in self._shown(answers).items()}
        ended = [f"{unit} is {state}" for unit, state in states.items() if state != "active"]
        return Pending("; ".join(ended)) if ended else None

    def apply(self, host: Host) -> None:
        """See Step. Raises HomelabError for a unit that ends of a lasting cause.

        At the deadline, raises HomelabError with the last answer and the last lines of the journal.
        """
        until = time.monotonic() + self.deadline
        first: Mapping[str, int] = {}
        last: Mapping[str, int] = {}
        while (pending := self.check(answers := host.batch(self.probes()))) is not None:
            restarts = {unit: int(shown.get("NRestarts", "0")) for unit, shown in self._shown(answers).items()}
            first = first or restarts
            ended = [unit for unit, count in restarts.items() if count - first.get(unit, count) >= _ENDS]
            if restarts != last:
                _require_no_lasting_cause(host, ended)
            last = restarts
            if time.monotonic() > until:
                raise self._unhealthy(host, pending, ended)
            time.sleep(_INTERVAL)

    def _shown(self, answers: Sequence[Result]) -> Mapping[str, Mapping[str, str]]:
        """Return the properties of each unit."""
        blocks = answers[-1].text.split("\n\n") if self.units else []
        shown = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
        return dict(zip(self.units, shown, strict=False))

    def _unhealthy(self, host: Host, pending: Pending, ended: Sequence[str]) -> HomelabError:
        journal = journal_end(host, ended or self.units) if self.units else []
        see = f"See `homelab logs {host.name}`; fix the cause, then run `homelab deploy` again."
        cause, resolution = (explain("\n".join(journal), host.name) if ended else None) or ("", see)
        return HomelabError(
            f"Cannot finish the deploy of {self.name} on {host.name}: it is not healthy after {self.deadline:.0f} s",
            "\n".join([pending.reason, *journal, *([cause] if cause else [])]),
            resolution,
        )


def _require_no_lasting_cause(host: Host, ended: Sequence[str]) -> None:
    for unit in ended:
        error = not_active(unit, host)
        known = known_error(error.details)
        if known and known.lasting:
            cause, error.resolution = known.on(host.name)
            error.details = f"{error.details}\n{cause}"
            raise error
