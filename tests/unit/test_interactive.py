"""An interactive program receives Ctrl-C itself, and its exit status is returned."""

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
from homelab.paths import bundled_path
from homelab.runtime.interactive import run_interactive


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("exit 3", (3, False)),
        ("kill -INT $PPID; sleep 0.1; exit 3", (3, True)),
        ("kill -INT $$; exit 3", (-signal.SIGINT, False)),  # it does not inherit an ignored signal
    ],
)
def test_ctrl_c_is_handled_by_the_program(script: str, ended: tuple[int, bool]) -> None:
    before = signal.getsignal(signal.SIGINT)
    assert run_interactive(["sh", "-c", script]) == ended
    assert signal.getsignal(signal.SIGINT) is before


def test_missing_ssh_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HomelabError, match="Cannot run ssh: it is not installed"):
        run_interactive(["ssh", "root@box"])


_LOGS = """
from homelab.commands import logs
def lines(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
    yield
logs.logs = lines
"""
_STATUS = """
from homelab.commands import status
from homelab.runtime.lab_report import LabReport
time.sleep = lambda _: os.kill(os.getpid(), signal.SIGINT)
status.status = lambda _: LabReport("home", [])
"""


@pytest.mark.parametrize(
    ("fake", "words", "status"), [(_LOGS, ["logs", "-f"], 130), (_STATUS, ["status", "--watch"], 0)]
)
def test_ctrl_c_ends_a_view_without_a_message(fake: str, words: list[str], status: int) -> None:
    arguments = ["homelab", "-i", str(bundled_path("inventory.yaml")), *words]
    code = f"import os, signal, sys, time\n{fake}\nsys.argv = {arguments!r}\nfrom homelab.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert "Interrupted" not in done.stdout


def test_ctrl_c_at_a_question_prints_only_aborted(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-m", "homelab", "init"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    output = b""
    while b"address):" not in output:
        output += os.read(ours, 1024)
    for _ in range(3):  # a Ctrl-C between the question and the wait for its answer takes effect at the next one
        os.write(ours, b"\x03")
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
    assert process.poll() == 130
    with suppress(OSError):  # a terminal without a process on its other side
        while part := os.read(ours, 1024):
            output += part
    os.close(ours)
    assert b"".join(output.replace(b"^C", b"").split()) == b"Proxmoxnode(nameoraddress):Aborted!"
    assert list(tmp_path.iterdir()) == []
