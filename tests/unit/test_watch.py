"""`homelab status --watch`: a report again and again, until Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import pytest
from rich.console import Console

from homelab.cli.watch import watch
from homelab.errors import HomelabError


@dataclass(frozen=True)
class Report:
    """A report with a number."""

    number: int


def show(report: Report, target: Console) -> None:
    target.print(f"report {report.number}")


def reports(failing: int = 0) -> Callable[[], Report]:
    numbers = count(1)

    def read() -> Report:
        number = next(numbers)
        if number == failing:
            raise HomelabError("Cannot connect to the node: connection refused", "https://127.0.0.1:1", "Start it.")
        return Report(number)

    return read


def interrupted(after: int) -> Callable[[float], None]:
    waits = count(1)

    def sleep(seconds: float) -> None:
        assert seconds == 2
        if next(waits) == after:
            raise KeyboardInterrupt

    return sleep


def test_reports_follow_each_other_until_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(reports(), show, 2, False, interrupted(3)) == Report(3)
    assert capsys.readouterr().out == "report 1\nreport 2\nreport 3\n"


def test_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    watch(reports(), show, 2, True, interrupted(2))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"number": 1}, {"number": 2}]


def test_failed_report_is_shown_and_the_next_one_follows(capsys: pytest.CaptureFixture[str]) -> None:
    assert watch(reports(failing=2), show, 2, False, interrupted(3)) == Report(3)
    output = capsys.readouterr()
    assert output.out == "report 1\nreport 3\n"
    assert "Cannot connect to the node: connection refused" in output.err


def test_ctrl_c_before_the_first_report_returns_none() -> None:
    assert watch(reports(failing=1), show, 2, False, interrupted(1)) is None


def test_report_replaces_the_one_before_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    watch(reports(failing=2), show, 2, False, interrupted(2))
    output = capsys.readouterr().out
    assert output.startswith("\x1b[?1049h")  # the alternate screen, which keeps the lines before it
    assert output.count("\x1b[?1049l") == 1
    assert "report 1" in output
    assert "connection refused" in output
    assert "every 2 s; Ctrl-C ends" in output
