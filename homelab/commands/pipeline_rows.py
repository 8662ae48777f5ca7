"""`homelab pipeline exclude`, `include`, `exclusions` and `backfill` for a pipeline of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from homelab.errors import InputError
from homelab.model.pipelines import Corrections
from homelab.runtime.row_corrections import corrections_of, operator, parse_key, run_script
from homelab.runtime.session import Session

_EXCLUSIONS = "row_exclusions.py"


@dataclass(frozen=True, kw_only=True)
class CoveredRows:
    """The rows that an exclusion covers: their number, first and last time; its id once it is added."""

    pipeline: str
    rows: int
    first: str
    last: str
    id: int | None = None

    def __str__(self) -> str:
        covered = f"{self.rows} rows, from {self.first} to {self.last}"
        if self.id is None:
            return covered
        again = f"`homelab pipeline include {self.id} --pipeline {self.pipeline}`"
        return f"Exclusion {self.id}: {covered}\n{_next(self.pipeline)}\nTo include them again: {again}"


@dataclass(frozen=True, kw_only=True)
class RowExclusion:
    """An exclusion: the values of its rows by column; `revoked_at` is None while it is in force."""

    id: int
    key: dict[str, str]
    first: str
    until: str
    reason: str
    excluded_by: str
    created_at: str
    revoked_at: str | None
    revoked_by: str | None


@dataclass(frozen=True, kw_only=True)
class IncludedRows:
    """Exclusions that were revoked."""

    pipeline: str
    exclusions: Sequence[RowExclusion]

    def __str__(self) -> str:
        return "\n".join([*(f"Exclusion {each.id} is revoked" for each in self.exclusions), _next(self.pipeline)])


@dataclass(frozen=True, kw_only=True)
class BackfilledRows:
    """The rows of a file that were stored, already present, and replaced."""

    pipeline: str
    stored: int
    unchanged: int
    replaced: int

    def __str__(self) -> str:
        replaced = f", {self.replaced} replaced" if self.replaced else ""
        return f"{self.stored} rows stored, {self.unchanged} were already present{replaced}\n{_next(self.pipeline)}"


@dataclass(frozen=True, kw_only=True)
class RowPeriod:
    """Rows from `first` to before `until` with these `COLUMN=VALUE` pairs."""

    key: list[str]
    first: datetime
    until: datetime

    def words(self, corrections: Corrections) -> list[str]:
        """Return the options of row_exclusions.py. Raises InputError for a column that is not in the key."""
        times = [(each if each.tzinfo else each.replace(tzinfo=UTC)).isoformat() for each in (self.first, self.until)]
        pairs = [f"--key={name}={value}" for name, value in parse_key(self.key, corrections).items()]
        table = ["--table", corrections.table, "--time", corrections.time]
        return [*table, *pairs, "--from", times[0], "--to", times[1]]


def exclude_rows(
    session: Session, name: str, period: RowPeriod, reason: str, confirm: Callable[[str], bool]
) -> CoveredRows | None:
    """Exclude rows after `confirm` agrees to the question; return None if it does not.

    Raises InputError if the period holds no row.
    """
    pipeline = session.inventory.pipeline(name)
    words, action = period.words(corrections_of(pipeline)), "exclude rows"
    covered = CoveredRows(pipeline=name, **run_script(session, pipeline, action, _EXCLUSIONS, "count", *words))
    if not confirm(f"Exclude {covered}?"):
        return None
    reasons = ("--reason", reason, "--by", operator())
    return CoveredRows(pipeline=name, **run_script(session, pipeline, action, _EXCLUSIONS, "add", *words, *reasons))


def include_rows(session: Session, name: str, ids: Sequence[int], reason: str) -> IncludedRows:
    """Revoke exclusions. Raises InputError for one that is not in force; those before it are revoked."""
    pipeline = session.inventory.pipeline(name)
    corrections_of(pipeline)
    reasons = ("--reason", reason, "--by", operator())
    found = [
        run_script(session, pipeline, "include rows", _EXCLUSIONS, "revoke", "--id", str(each), *reasons)
        for each in ids
    ]
    return IncludedRows(pipeline=name, exclusions=[RowExclusion(**each) for each in found])


def row_exclusions(session: Session, name: str) -> Sequence[RowExclusion]:
    """Return all exclusions, oldest first."""
    pipeline = session.inventory.pipeline(name)
    corrections_of(pipeline)
    found = run_script(session, pipeline, "list the exclusions", _EXCLUSIONS, "list")
    return [RowExclusion(**each) for each in found]


def backfill_rows(session: Session, name: str, file: Path, replace: bool) -> BackfilledRows:
    """Store a file's rows. Raises InputError if one of them cannot be stored: then none is."""
    pipeline = session.inventory.pipeline(name)
    table = corrections_of(pipeline)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"Cannot read {file}", str(error), "Name a file of CSV or JSON lines.") from error
    words = ["--table", table.table, "--time", table.time, *(f"--key={each}" for each in table.key)]
    words += ["--replace"] if replace else []
    stored = run_script(session, pipeline, f"store {file.name}", "row_backfill.py", *words, stdin=content)
    return BackfilledRows(pipeline=name, **stored)


def _next(name: str) -> str:
    return f"The next run of the pipeline updates the marts: `homelab pipeline run {name}`"
