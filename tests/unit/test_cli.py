"""What reaches the user's terminal: exit codes, errors without a traceback, tables of any text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from homelab.cli import app
from homelab.cli.output import show_rows
from homelab.errors import HomelabError
from homelab.known_hosts import KnownHosts
from homelab.runtime.concurrency import run_all, run_all_or_raise
from homelab.runtime.lab_lock import lab_lock
from homelab.secrets import FileSecretStore

# Runs `homelab status` with `load` put in the place of reading the inventory.
_PROGRAM = """
import sys
from homelab import cli
from homelab.cli.global_options import Settings
from homelab.errors import HomelabError, InputError
{load}
Settings.load = load
sys.argv = ["homelab", *{options}, "status"]
cli.main()
"""


def _program(load: str, *options: str) -> list[str]:
    return [sys.executable, "-c", _PROGRAM.format(load=load, options=list(options))]


def _homelab(load: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_program(load, *options), capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ('HomelabError("what", "why", "do")', 1),
        ('InputError("what", "why", "do")', 2),
        ('ZeroDivisionError("what")', 1),
    ],
)
@pytest.mark.parametrize("verbose", [False, True])
def test_error_shows_a_traceback_only_if_asked(error: str, status: int, verbose: bool) -> None:
    ended = _homelab(f"def load(self): raise {error}", *(["--verbose"] if verbose else []))
    assert ended.returncode == status
    assert "what" in ended.stderr
    assert ("Traceback" in ended.stderr) == verbose


def test_ctrl_c_ends_immediately_though_work_goes_on() -> None:
    load = """
def load(self):
    from homelab.runtime.concurrency import run_all
    import time
    with self.progress().step("somebody", "slow work"):
        print("begun", flush=True)
        run_all({"slow": lambda: time.sleep(60)})
"""
    with subprocess.Popen(_program(load), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        started = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "Interrupted" in said
    assert "Traceback" not in said


def test_all_work_is_done_though_one_fails() -> None:
    done: list[str] = []

    def fail() -> None:
        raise HomelabError("no")

    with pytest.raises(HomelabError, match="no"):
        run_all_or_raise({"a": fail, "b": lambda: done.append("b")})
    assert done == ["b"]
    assert {name: future.result() for name, future in run_all({"x": lambda: 1, "y": lambda: 2}).items()} == {
        "x": 1,
        "y": 2,
    }


def test_only_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / ".homelab" / "lab"
    with lab_lock(folder, "up"):
        with pytest.raises(HomelabError, match="another command is changing it") as caught, lab_lock(folder, "deploy"):
            pass
        assert f"Process {os.getpid()} (homelab up), started at " in caught.value.details
        with lab_lock(tmp_path / ".homelab" / "another", "up"):
            pass
    with lab_lock(folder, "deploy"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("secrets.json", "known_hosts.json"):
        (tmp_path / name).write_text("{")
    with pytest.raises(HomelabError, match=r"secrets\.json: it is damaged"):
        FileSecretStore(tmp_path).secret("airflow-admin")
    with pytest.raises(HomelabError, match=r"known_hosts\.json: it is damaged"):
        KnownHosts(tmp_path / "known_hosts.json").pins()


@pytest.mark.parametrize(
    ("rows", "shown"),
    [([], "no rows\n"), ([{"a": None, "b": 1}], "a  b  \n   1  \n"), ([{"[red]x": "[/foo]"}], "[red]x  \n[/foo]  \n")],
)
def test_rows(rows: list[dict[str, Any]], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_rows(rows)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        line.rstrip() for line in shown.splitlines()
    ]


@pytest.mark.parametrize(("columns", "is_table"), [("20", False), ("120", True), ("wide", True)])
def test_rows_in_a_pipe_have_the_width_of_columns(columns: str, is_table: bool) -> None:
    program = "from homelab.cli.output import show_rows; show_rows([{'name': 'x' * 30, 'other': 'y' * 30}])"
    environment = {**os.environ, "COLUMNS": columns}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True, env=environment
    )
    assert (len(ended.stdout.splitlines()) == 2) == is_table


@pytest.mark.parametrize(("verb", "seconds"), [("status", "nan"), ("status", "inf"), ("top", "nan"), ("top", "0.5")])
def test_interval_is_a_number_of_seconds(verb: str, seconds: str) -> None:
    done = CliRunner().invoke(app, [verb, "--interval", seconds])
    assert done.exit_code == 2
    assert "Invalid value for '--interval'" in done.output


def test_rows_wider_than_the_terminal_are_shown_whole() -> None:
    program = (
        "import rich.console as c; from homelab.cli import output as view; "
        "view.console = lambda: c.Console(width=40, force_terminal=True, color_system=None); "
        "view.show_rows([{'name': 'x' * 30, 'other': 'y' * 30}])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout.splitlines() == ["row 1", "  name   " + "x" * 30, "  other  " + "y" * 30]
