"""`homelab pipeline backfill`: refused options, progress, and the error of each exit status."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.cli import pipeline
from homelab.commands import pipeline_backfill
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.pipeline_contract import EXIT
from homelab.progress import SilentProgress, Update
from homelab.runtime import job_progress
from tests.support import LocalHost

DAY = datetime(2019, 1, 1)
OPTIONS = pipeline_backfill.BackfillOptions(cities=["A", "B"])


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"file": Path("a"), "first": DAY},
        {"file": Path("a"), "until": DAY},
        {"until": DAY},
        {"file": Path("a"), "city": ["A", "B"]},
    ],
)
def test_a_file_and_days_cannot_be_combined(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="FILE and --from exclude each other"):
        pipeline.backfill(**words)


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
        self.updates: list[str] = []

    @contextmanager
    def step(self, who: str, what: str) -> Iterator[Update]:
        yield self.updates.append


def backfill_history(host: BackfillHost, progress: RecordedProgress) -> pipeline_backfill.Backfilled:
    return pipeline_backfill.backfill_api_on(host, date(2019, 1, 1), date(2019, 2, 1), OPTIONS, progress)


def test_the_progress_and_the_result_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    host, progress = BackfillHost(status=EXIT.partial), RecordedProgress()
    result = backfill_history(host, progress)
    assert progress.updates[0] == "3 of 9 weeks"
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
        (EXIT.failed, HomelabError, "local: storing the history"),
    ],
)
def test_each_exit_status_has_its_error(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[HomelabError], brief: str
) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    with pytest.raises(kind, match=brief) as caught:
        backfill_history(BackfillHost(status=status), RecordedProgress())
    assert "the cause" in str(caught.value) or status == EXIT.busy
