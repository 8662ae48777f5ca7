"""`homelab pipeline exclude`, `include` and `exclusions`: leave wrong observations out of the marts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from homelab.errors import InputError
from homelab.host import CommandFailed, Host, expected_format
from homelab.model.stages import INGESTION
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import Layout
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.row_corrections import operator
from homelab.runtime.session import Session

_DEADLINE = 600.0  # seconds; without a city, it counts in the whole history
_NEXT = "The next run of the pipeline updates the marts: `homelab pipeline run`"


@dataclass(frozen=True, kw_only=True)
class Period:
    """Observations from `first` to before `until`, of one city or of all."""

    city: str | None
    first: datetime
    until: datetime

    def options(self) -> list[str]:
        """Return the options of exclusions.py."""
        times = [(each if each.tzinfo else each.replace(tzinfo=UTC)).isoformat() for each in (self.first, self.until)]
        return [*(["--city", self.city] if self.city else []), "--from", times[0], "--to", times[1]]


@dataclass(frozen=True, kw_only=True)
class Covered:
    """The observations that an exclusion covers: their number, cities, first and last time; its id once it is added.

    With `dropped`, PostgreSQL has none of them any more, but the marts may.
    """

    observations: int
    cities: int
    first: str | None
    last: str | None
    id: int | None = None
    dropped: bool = False

    def __str__(self) -> str:
        covered = f"{self.observations} observations of {self.cities} cities, from {self.first} to {self.last}"
        if self.dropped:
            covered = "the observations of this period, whose months were dropped from PostgreSQL or archived"
        if self.id is None:
            return covered
        return f"Exclusion {self.id}: {covered}\n{_NEXT}\nTo include them again: `homelab pipeline include {self.id}`"


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """An exclusion; `city` is None for all cities, `revoked_at` None while it is in force."""

    id: int
    city: str | None
    first: str
    until: str
    reason: str
    excluded_by: str
    created_at: str
    revoked_at: str | None
    revoked_by: str | None


@dataclass(frozen=True, kw_only=True)
class Included:
    """Exclusions that were revoked."""

    exclusions: Sequence[Exclusion]

    def __str__(self) -> str:
        lines = [f"Exclusion {each.id} of {each.city or 'all cities'} is revoked" for each in self.exclusions]
        return "\n".join([*lines, _NEXT])


def exclude(session: Session, period: Period, reason: str, confirm: Callable[[str], bool]) -> Covered | None:
    """Exclude a period's observations after `confirm` agrees to the question; return None if it does not.

    Raises InputError if the period holds no observation.
    """
    layout = weather_layout(session.inventory)
    with session.connect_to_stage(INGESTION) as host:
        covered = Covered(**_run(host, layout, "count", *period.options()))
        if not confirm(f"Exclude {covered}?"):
            return None
        return Covered(**_run(host, layout, "add", *period.options(), "--reason", reason, "--by", operator()))


def include(session: Session, ids: Sequence[int], reason: str) -> Included:
    """Revoke exclusions. Raises InputError for one that is not in force; those before it are revoked."""
    layout = weather_layout(session.inventory)
    with session.connect_to_stage(INGESTION) as host:
        why = ("--reason", reason, "--by", operator())
        found = [_run(host, layout, "revoke", "--id", str(each), *why) for each in ids]
    return Included(exclusions=[Exclusion(**each) for each in found])


def exclusions(session: Session) -> Sequence[Exclusion]:
    """Return all exclusions, oldest first."""
    layout = weather_layout(session.inventory)
    with session.connect_to_stage(INGESTION) as host:
        return [Exclusion(**each) for each in _run(host, layout, "list")]


def _run(host: Host, layout: Layout, *words: str) -> Any:
    result = host.run(layout.run(weather_words(layout, "exclusions.py", *words)), timeout=_DEADLINE)
    if result.status == EXIT.bad_input:
        raise InputError(
            "Cannot change the exclusions",
            result.stderr.decode(errors="replace").strip().removeprefix("error: ")[-1500:],
            "List the exclusions: `homelab pipeline exclusions`",
        )
    if not result.ok:
        action = "list the exclusions" if words[0] == "list" else "change the exclusions"
        raise CommandFailed(host.name, result, action)
    with expected_format(host.name, "read the exclusions"):
        return json.loads(result.text.splitlines()[-1])
