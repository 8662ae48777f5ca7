"""`homelab pipeline backfill`, `exclude` and `include`: options, questions, progress, and exit codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pytest
import typer

from homelab.cli import corrections
from homelab.commands import pipeline_backfill, pipeline_exclude
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.pipeline_contract import EXIT
from homelab.progress import SilentProgress, StatusUpdate
from homelab.runtime import backfills, job_progress
from homelab.runtime.deployed_pipelines import weather_layout
from tests.support import LocalHost, make_session

INVENTORY = load([bundled_path("inventory.yaml")])

DAY = datetime(2019, 1, 1)
OPTIONS = backfills.BackfillOptions(cities=["A", "B"])


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"words": ["a"], "first": DAY},
        {"words": ["a"], "until": DAY},
        {"until": DAY},
        {"words": ["a"], "city": ["A", "B"]},
    ],
)
def test_file_and_days_cannot_be_combined(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="FILE and --from exclude each other"):
        corrections.backfill(**words)


@dataclass
class BackfillHost(LocalHost):
    """A container whose backfill runs until its progress has been read."""

    status: int = 0
    progress_read: threading.Event = field(default_factory=threading.Event)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        if "history.progress" in command:
            self.progress_read.set()
            return Result(command, 0, b"3 of 9 weeks\n")
        self.ran.append(command)
        assert self.progress_read.wait(10)
        summary = {
            "stored": 5,
            "unchanged": 0,
            "quarantined": 0,
            "reasons": {},
            "requests": 2,
            "complete_weeks": 1,
            "failed": {"B": "HTTP 404: city not found"} if self.status == EXIT.partial else {},
        }
        return Result(command, self.status, json.dumps(summary).encode(), b"error: the cause\n")


class RecordedProgress(SilentProgress):
    """A progress display that records its updates."""

    def __init__(self) -> None:
        self.statuses: list[str] = []

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[StatusUpdate]:
        yield self.statuses.append


def backfill_history(host: BackfillHost, progress: RecordedProgress) -> backfills.Backfilled:
    return backfills.backfill_api_on(
        host, weather_layout(INVENTORY), date(2019, 1, 1), date(2019, 2, 1), OPTIONS, progress
    )


def test_progress_and_the_result_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    host, progress = BackfillHost(status=EXIT.partial), RecordedProgress()
    result = backfill_history(host, progress)
    assert progress.statuses[0] == "3 of 9 weeks"
    assert "--from 2019-01-01 --to 2019-02-01 --city A --city B" in host.ran[0]
    assert str(result).splitlines()[:2] == [
        "5 observations stored, 0 were already present, 1 complete weeks skipped",
        "  B: HTTP 404: city not found",
    ]


@pytest.mark.parametrize(
    ("status", "kind", "brief"),
    [
        (EXIT.bad_input, InputError, "Cannot request the history"),
        (EXIT.key_refused, HomelabError, "OpenWeather refuses the key"),
        (EXIT.busy, HomelabError, "another one is running"),
        (EXIT.failed, HomelabError, "Cannot store the history"),
    ],
)
def test_each_exit_status_has_its_error(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[HomelabError], brief: str
) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    with pytest.raises(kind, match=brief) as caught:
        backfill_history(BackfillHost(status=status), RecordedProgress())
    assert "the cause" in str(caught.value) or status == EXIT.busy


class AnsweringHost(LocalHost):
    """A container whose scripts print these answers in turn."""

    def __init__(self, *answers: Result) -> None:
        super().__init__()
        self.answers = list(answers)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        self.ran.append(command)
        return self.answers.pop(0)


@dataclass
class AnsweringSession:
    """A session whose analytics container is this host."""

    host: AnsweringHost
    inventory: Inventory = INVENTORY
    progress: SilentProgress = field(default_factory=SilentProgress)

    @contextmanager
    def connect_to_stage(self, _stage: str) -> Iterator[AnsweringHost]:
        yield self.host


def answer(value: object, status: int = 0, error: bytes = b"") -> Result:
    return Result("", status, json.dumps(value).encode(), error)


COVERED = {"observations": 2, "cities": 1, "first": "2026-11-01T03:00:00+00:00", "last": "2026-11-01T04:00:00+00:00"}
PERIOD = pipeline_exclude.Period(city="A", first=datetime(2026, 11, 1, 3), until=datetime(2026, 11, 1, 5))


@pytest.mark.parametrize("agreed", [True, False])
def test_exclusion_is_added_only_after_confirmation(agreed: bool) -> None:
    host = AnsweringHost(answer(COVERED), answer({**COVERED, "id": 7}))
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return agreed

    outcome = pipeline_exclude.exclude(AnsweringSession(host), PERIOD, "a 'sensor'", confirm)  # type: ignore[arg-type]
    assert questions == [
        "Exclude 2 observations of 1 cities, from 2026-11-01T03:00:00+00:00 to 2026-11-01T04:00:00+00:00?"
    ]
    assert "exclusions.py count --city A --from 2026-11-01T03:00:00+00:00 --to 2026-11-01T05:00:00+00:00" in host.ran[0]
    assert len(host.ran) == 1 + agreed
    assert (outcome is not None) == agreed
    if outcome:
        assert "homelab pipeline include 7" in str(outcome)
        assert "--by" in host.ran[1]


def test_exclusion_of_a_dropped_month_says_so() -> None:
    found = {"observations": 0, "cities": 0, "first": None, "last": None, "dropped": True}
    host = AnsweringHost(answer(found))
    questions: list[str] = []
    pipeline_exclude.exclude(AnsweringSession(host), PERIOD, "x", lambda text: bool(questions.append(text)))  # type: ignore[arg-type]
    assert questions == [
        "Exclude the observations of this period, whose months were dropped from PostgreSQL or archived?"
    ]


def test_refused_exclusion_is_an_input_error() -> None:
    host = AnsweringHost(answer(None, EXIT.bad_input, b"error: there is no observation of A in this period\n"))
    with pytest.raises(InputError, match="Cannot change the exclusions") as caught:
        pipeline_exclude.exclude(AnsweringSession(host), PERIOD, "x", lambda _: True)  # type: ignore[arg-type]
    assert caught.value.details == "there is no observation of A in this period"


@pytest.mark.parametrize("words", [{"city": None}, {"city": "A", "all_cities": True}, {"city": "A", "reason": " "}])
def test_exclusion_needs_a_scope_and_a_reason(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="Cannot exclude"):
        corrections.exclude(**{"first": DAY, "until": DAY, "reason": "x", **words})


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({}, None),
        ({"quarantined": 1, "reasons": {"bad": 1}}, EXIT.partial),
        ({"failed": {"A": "HTTP 404"}}, EXIT.partial),
    ],
)
def test_partial_backfill_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], summary: dict[str, Any], code: int | None
) -> None:
    values: dict[str, Any] = {"stored": 4, "unchanged": 0, "quarantined": 0, "reasons": {}, "units": {"imperial": 4}}
    outcome = backfills.Backfilled(**{**values, **summary, "assumed_units": "imperial"})
    monkeypatch.setattr(pipeline_backfill, "backfill_file", lambda *_: outcome)
    session = make_session(load([bundled_path("inventory.yaml")]))
    monkeypatch.setattr(type(corrections.settings), "session", lambda _: session)
    if code is None:
        corrections.backfill(["a"])
    else:
        with pytest.raises(typer.Exit) as caught:
            corrections.backfill(["a"])
        assert caught.value.exit_code == code
    shown = capsys.readouterr().out
    assert "4 observations stored" in shown
    assert "Units: imperial (4); records without units count as imperial, the inventory's" in shown


def test_replacement_asks_first() -> None:
    with pytest.raises(InputError, match="Cannot ask for confirmation"):
        corrections.backfill(["a"], replace=True)


def test_options_reach_the_script() -> None:
    options = backfills.BackfillOptions(cities=["A b"], units="metric", new_city=True, replace=True)
    assert options.words() == ["--city", "A b", "--units", "metric", "--new-city", "--replace"]
