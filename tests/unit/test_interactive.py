"""A program that gets the terminal: Ctrl-C is for it, and how it ended is known."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from homelab.errors import HomelabError
from homelab.runtime.interactive import run_interactive


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 3", (3, False)),
        ("kill -INT $PPID; sleep 0.1; exit 3", (3, True)),
        (
            "kill -INT $$; exit 3",
            (-signal.SIGINT, False),
        ),  # it would go on, had it inherited that the signal is ignored
    ],
)
def test_ctrl_c_is_for_the_program(script: str, ended: tuple[int, bool]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_interactive(["sh", "-c", script]) == ended
    assert signal.getsignal(signal.SIGINT) is before


def test_ssh_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HomelabError, match="Cannot run ssh: it is not installed"):
        run_interactive(["ssh", "root@box"])


def test_ctrl_c_at_a_question_gets_one_word_for_an_answer(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "homelab", "init"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"address):" not in said:
        said += os.read(ours, 1024)
    for _ in range(3):  # one that comes between the question and the wait for its answer is heard at the next one
        os.write(ours, b"\x03")
        with suppress(subprocess.TimeoutExpired):
            asking.wait(5)
            break
    assert asking.poll() == 130
    with suppress(OSError):  # how a terminal says that nobody is on its other side any more
        while part := os.read(ours, 1024):
            said += part
    os.close(ours)
    assert b"".join(said.replace(b"^C", b"").split()) == b"Proxmoxnode(nameoraddress):Aborted!"
    assert list(tmp_path.iterdir()) == []
