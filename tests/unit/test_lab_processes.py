"""Detached processes are started, identified and ended; other processes are not touched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from homelab.lab.process import (
    Identity,
    boot_id,
    identity,
    parse_identity,
    parse_stat,
    processes,
    running,
    spawn,
    stat_of,
    stop,
    wait_until,
)


@pytest.mark.parametrize("name", ["sleep", "a b", "tricky) S 1 1", "((", ""])
def test_parse_stat_with_any_process_name(name: str) -> None:
    tail = " ".join(["S", "1", "77"] + [str(number) for number in range(6, 53)])
    stat = parse_stat(f"4711 ({name}) {tail}")
    assert (stat.pid, stat.state, stat.group, stat.started) == (4711, "S", 77, 22)


@pytest.mark.parametrize("text", ["", "nonsense", "boot 12", "boot 12 (sh) S 1"])
def test_broken_pid_file_has_no_identity(text: str) -> None:
    assert parse_identity(text) is None


def test_identity_is_pid_start_and_boot() -> None:
    own = stat_of(os.getpid())
    assert own is not None
    assert Identity(boot_id(), own.pid, own.started).alive
    assert not Identity(boot_id(), own.pid, own.started + 1).alive
    assert not Identity("another boot", own.pid, own.started).alive


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "it.pid"
    yield file
    stop(file, grace=0)


def started(pid_file: Path, *argv: str) -> int:
    spawn(argv, pid_file, pid_file.with_suffix(".log"))
    assert wait_until(lambda: running(pid_file) is not None, 5)
    pid = running(pid_file)
    assert pid is not None
    return pid


def test_spawn_detaches_and_stop_ends_the_process(pid_file: Path) -> None:
    pid = started(pid_file, "sleep", "60")
    assert wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0060\x00", 5)
    assert os.getsid(pid) == pid != os.getsid(0)
    stop(pid_file)
    assert stat_of(pid) is None
    assert not pid_file.exists()


def test_output_goes_to_the_log(pid_file: Path) -> None:
    spawn(["sh", "-c", "echo out; echo err >&2"], pid_file, pid_file.with_suffix(".log"))
    log = pid_file.with_suffix(".log")
    assert wait_until(lambda: log.exists() and log.read_text() == "out\nerr\n", 5)


def test_stop_ends_children_of_a_killed_leader(pid_file: Path) -> None:
    leader = started(pid_file, sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '61'])")
    assert wait_until(lambda: sum(stat.group == leader for stat in processes()) == 2, 5)
    os.kill(leader, 9)
    assert wait_until(lambda: running(pid_file) is None, 5)
    assert [stat for stat in processes() if stat.group == leader] != []
    stop(pid_file)
    assert [stat for stat in processes() if stat.group == leader] == []


def test_stop_kills_a_process_that_ignores_sigterm(pid_file: Path) -> None:
    pid = started(pid_file, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    assert wait_until(lambda: pid_file.with_suffix(".log").read_text() == "ready\n", 5)
    stop(pid_file, grace=0.2)
    assert stat_of(pid) is None


def test_stop_does_not_kill_a_recycled_pid(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        line = Path(f"/proc/{other.pid}/stat").read_text().split(" ")
        line[21] = str(int(line[21]) - 1)  # an earlier process had this pid
        file = tmp_path / "it.pid"
        file.write_text(f"{boot_id()} {' '.join(line)}")
        recorded = identity(file)
        stop(file)
        survived = other.poll() is None
        other.kill()
    assert recorded is not None
    assert recorded.pid == other.pid
    assert survived
    assert not file.exists()


def test_stop_without_a_pid_file_does_nothing(tmp_path: Path) -> None:
    stop(tmp_path / "it.pid")
