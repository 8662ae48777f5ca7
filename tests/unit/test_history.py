"""`homelab pipeline backfill --from`: what the command line refuses, and how it tells what happens over there."""

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
from homelab.commands import backfill
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.progress import SilentProgress, StatusUpdate
from homelab.runtime import job_progress
from tests.support import LocalHost

DAY = datetime(2019, 1, 1)


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
def test_a_file_and_days_exclude_each_other(words: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="either a file or days"):
        pipeline.backfill(**words)


@dataclass
class Far(LocalHost):
    """A container in which the script goes on until somebody has looked how far it is."""

    status: int = 0
    looked: threading.Event = field(default_factory=threading.Event)

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 60) -> Result:
        if "history.progress" in command:
            self.looked.set()
            return Result(command, 0, b"3 of 9 weeks\n")
        self.ran.append(command)
        assert self.looked.wait(10)
        said = {
            "stored": 5,
            "unchanged": 0,
            "quarantined": 0,
            "reasons": {},
            "requests": 2,
            "whole": 1,
            "failed": {"B": "HTTP 404: city not found"} if self.status == 4 else {},
        }
        return Result(command, self.status, json.dumps(said).encode(), b"error: it is so\n")


class Seen(SilentProgress):
    """Remembers how far it was said to be."""

    def __init__(self) -> None:
        self.statuses: list[str] = []

    @contextmanager
    def step(self, host: str, title: str) -> Iterator[StatusUpdate]:
        yield self.statuses.append


def ask(host: Far, progress: Seen) -> backfill.Backfilled:
    return backfill.history_on(host, date(2019, 1, 1), date(2019, 2, 1), ["A", "B"], None, progress)


def test_how_far_it_is_and_what_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    host, progress = Far(status=4), Seen()
    told = ask(host, progress)
    assert progress.statuses[0] == "3 of 9 weeks"
    assert "--from 2019-01-01 --to 2019-02-01 --city A --city B" in host.ran[0]
    assert str(told).splitlines()[:2] == [
        "5 observations stored, 0 were there already, 1 weeks were whole and not asked for again",
        "  B: HTTP 404: city not found",
    ]


@pytest.mark.parametrize(
    ("status", "kind", "brief"),
    [
        (2, InputError, "The history cannot be asked for"),
        (3, HomelabError, "OpenWeather refuses the key"),
        (5, HomelabError, "A backfill is going on"),
        (1, HomelabError, "local: bringing in the history"),
    ],
)
def test_each_end_has_its_words(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[HomelabError], brief: str
) -> None:
    monkeypatch.setattr(job_progress, "POLL_INTERVAL", 0.01)
    with pytest.raises(kind, match=brief) as caught:
        ask(Far(status=status), Seen())
    assert "it is so" in str(caught.value) or status == 5
