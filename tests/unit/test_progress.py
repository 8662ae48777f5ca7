"""The display of long work."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from homelab.progress import TerminalProgress, duration


def shown(interval: float, terminal: bool = False) -> str:
    """Return the output of a step that reports its status three times, two of them the same."""
    out = io.StringIO()
    progress = TerminalProgress(Console(file=out, force_terminal=terminal, width=80, color_system=None), interval)
    with progress.step("pve", "download it") as update:
        for status in ("26 %", "26 %", "52 %"):
            update(status)
        until = time.monotonic() + 5
        while terminal and "52 %" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
    return out.getvalue()


@pytest.fixture(autouse=True)
def without_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)


def test_plain_lines_show_each_new_status() -> None:
    lines = [" ".join(line.split()) for line in shown(0).splitlines()]
    assert lines[:2] == ["· pve download it: 26 %", "· pve download it: 52 %"]
    assert lines[2].startswith("✓ pve download it [")
    assert len(lines) == 3


def test_plain_lines_respect_the_interval() -> None:
    assert len(shown(10).splitlines()) == 1


def test_terminal_shows_the_status_in_the_line_of_the_step() -> None:
    text = shown(0, terminal=True)
    assert "download it: 52 %" in text
    assert "· pve                    download it:" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (86399, "23 h 59 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_duration_has_at_most_two_numbers(seconds: float, text: str) -> None:
    assert duration(seconds) == text
