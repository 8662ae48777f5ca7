"""`homelab tmux` with the real tmux: panes follow from the inventory, and an existing session is kept."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.commands.tmux import open_session
from homelab.errors import HomelabError, InputError
from homelab.inventory import load
from homelab.model import Inventory
from homelab.paths import bundled_path
from homelab.runtime.tmux_session import TmuxSession, log_targets, session_name
from tests.scripts import DAG_ID

TARGETS = [
    "postgres-data postgresql@16-main",
    "airflow-orchestration airflow-api-server",
    "airflow-orchestration airflow-dag-processor",
    "airflow-orchestration airflow-scheduler",
    f"{DAG_ID}.fetch_weather_data",
    "weather.dbt",
]
# It prints its arguments after those of the interpreter, and waits as `homelab logs -f` does.
PROGRAM = ["sh", "-c", 'echo "args: $*"; exec sleep 60', "sh"]

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is missing: run `./bootstrap --test`")


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A tmux server of its own, which ends with the test."""
    monkeypatch.setenv("TMUX_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # without the user's ~/.tmux.conf
    monkeypatch.setenv("TERM", "xterm")
    for name in ("TMUX", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    program = str(shutil.which("tmux"))
    yield
    subprocess.run([program, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def inventory() -> Inventory:
    return load([bundled_path("inventory.yaml")])


def panes(format_: str, name: str = "homelab-home") -> list[str]:
    words = ["tmux", "list-panes", "-s", "-t", f"={name}", "-F", format_]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def text_of(pane: str) -> str:
    """Return the text of a pane as soon as it has one."""
    for _ in range(100):
        words = ["tmux", "capture-pane", "-p", "-J", "-S", "-100", "-t", pane]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        if shown:
            return shown
        time.sleep(0.05)
    raise AssertionError("the pane stays empty")


def test_panes_follow_from_units_and_pipelines(inventory: Inventory) -> None:
    assert log_targets(inventory) == TARGETS
    open_session(inventory, PROGRAM)
    assert panes("#{pane_title}") == TARGETS
    assert set(panes("#{window_index}")) == {"0"}
    for pane, target in zip(panes("#{pane_id}"), TARGETS, strict=True):
        assert text_of(pane).replace("\n", "") == f"args: logs -f {target}"


def test_arguments_of_each_pane_are_a_command_of_homelab(inventory: Inventory) -> None:
    for target in log_targets(inventory):
        done = CliRunner().invoke(app, ["-i", str(inventory.path), "logs", *target.split(), "--since", "wrong"])
        assert isinstance(done.exception, InputError)
        assert done.exception.brief.startswith("Cannot read the time"), "its targets are read after it"


def test_existing_session_is_kept(inventory: Inventory) -> None:
    open_session(inventory, PROGRAM)
    before = panes("#{pane_pid}")
    assert open_session(inventory, ["false"]) == TmuxSession("homelab-home")
    assert panes("#{pane_pid}") == before


def test_further_panes_are_in_further_windows() -> None:
    session = TmuxSession("homelab-big")
    session.create({f"pane {number}": PROGRAM for number in range(14)})
    assert [panes("#{window_index}", "homelab-big").count(number) for number in "012"] == [6, 6, 2]
    assert set(panes("#{window_active}", "homelab-big")[:6]) == {"1"}


def test_pane_whose_program_has_ended_keeps_its_message() -> None:
    TmuxSession("homelab-x").create({"one": ["sh", "-c", "sleep 0.5; echo cannot connect; exit 1"], "two": PROGRAM})
    first, _ = panes("#{pane_id}", "homelab-x")
    for _ in range(100):
        if "cannot connect" in text_of(first) and panes("#{pane_dead}", "homelab-x") == ["1", "0"]:
            return
        time.sleep(0.05)
    raise AssertionError((panes("#{pane_dead} #{pane_width}x#{pane_height}", "homelab-x"), text_of(first)))


def test_session_that_cannot_be_created_leaves_nothing() -> None:
    session = TmuxSession("homelab-x")
    with pytest.raises(ValueError, match="null byte"):
        session.create({"one": PROGRAM, "two": ["\0"]})
    assert not session.exists


@pytest.mark.parametrize(("lab", "expected"), [("home", "homelab-home"), ("a.b", "homelab-a-b")])
def test_name_of_the_session_is_that_of_the_lab(lab: str, expected: str) -> None:
    assert session_name(lab) == expected


def test_missing_tmux_is_named(inventory: Inventory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HomelabError, match="tmux is not installed") as raised:
        open_session(inventory, PROGRAM)
    assert raised.value.resolution.startswith("Install it: apt install tmux")


def homelab(*words: str) -> list[str]:
    return [sys.executable, "-m", "homelab", "-i", str(bundled_path("inventory.yaml")), "tmux", *words]


def test_session_is_not_shown_without_a_terminal() -> None:
    done = subprocess.run(homelab(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "homelab -i" in done.stderr
    assert "tmux --detached" in done.stderr
    created = subprocess.run(homelab("--detached"), capture_output=True, text=True, check=True)
    assert created.stdout == "The session runs: tmux attach -t homelab-home\n"
    assert panes("#{pane_title}") == TARGETS


def test_session_is_attached_until_the_user_detaches() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(["setsid", "--ctty", "--wait", *homelab()], stdin=theirs, stdout=theirs, stderr=theirs)
    try:
        clients: list[str] = []
        for _ in range(200):
            words = ["tmux", "list-clients", "-F", "#{session_name}"]
            clients = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
            if clients:
                break
            time.sleep(0.1)
        assert clients == ["homelab-home"]
        os.write(ours, b"\x02d")
        assert process.wait(20) == 0
        assert TmuxSession("homelab-home").exists
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
