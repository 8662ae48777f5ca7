"""A program that gets the terminal: Ctrl-C is for it, and how it ended is known."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from homelab.commands.terminal import handed_over
from homelab.errors import HomelabError


@pytest.mark.parametrize(("script", "ended"), [
    ("exit 3", (3, False)),
    ("kill -INT $PPID; sleep 0.1; exit 3", (3, True)),
    ("kill -INT $$; exit 3", (-signal.SIGINT, False)),  # it would go on, had it inherited that the signal is ignored
])
def test_ctrl_c_is_for_the_program(script: str, ended: tuple[int, bool]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert handed_over(["sh", "-c", script]) == ended
    assert signal.getsignal(signal.SIGINT) is before


def test_ssh_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HomelabError, match="ssh is not installed"):
        handed_over(["ssh", "root@box"])
