"""Copies of published files: the program that pushes them, and the gate that receives them, without SSH."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from homelab.paths import bundled_path
from homelab.pipelines.published_files import FILE
from homelab.render import render
from homelab.services.publications import copy_times
from tests.support import LocalHost

PROGRAM = bundled_path("templates/publications/push.py")
Gate = Callable[..., "subprocess.CompletedProcess[bytes]"]


def load_program() -> ModuleType:
    """Return the program, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("tests_push", PROGRAM)
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


push = load_program()


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """The folder of the copies."""
    folder = tmp_path / "copies"
    folder.mkdir()
    return folder


def write_gate(copies: Path, reserve: int = 0) -> Path:
    program = copies.parent / "gate"
    program.write_bytes(
        render("publications/gate.j2", folder=copies, file=FILE, names=["weather", "prices"], reserve=reserve)
    )
    program.chmod(0o755)
    return program


def run_gate(gate: Path, command: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the gate as sshd does for a command of the client."""
    environment = {**os.environ, "SSH_ORIGINAL_COMMAND": command}
    return subprocess.run(["sh", str(gate)], input=content, env=environment, capture_output=True, check=False)


def publish(path: Path, content: bytes) -> None:
    path.with_suffix(".new").write_bytes(content)
    path.with_suffix(".new").replace(path)


def target(gate: Path) -> push.Target:  # type: ignore[name-defined]
    """Return a target whose `ssh` runs the gate on this machine."""
    ssh = gate.with_name("ssh")
    ssh.write_text(
        f"#!/bin/sh\n[ ! -e {ssh}.broken ] || {{ echo unreachable >&2; exit 255; }}\n"
        f'echo "$1" >>{ssh}.log\nSSH_ORIGINAL_COMMAND="$1" exec sh {shlex.quote(str(gate))}\n'
    )
    ssh.chmod(0o755)
    return push.Target("dashboards", [str(ssh)])


def test_publication_is_pushed_once_and_the_next_one_again(tmp_path: Path, copies: Path) -> None:
    box, source = target(write_gate(copies)), tmp_path / FILE
    files = {"weather": source, "prices": tmp_path / "missing.duckdb"}
    publish(source, b"first")
    box.update(files, 0.0)
    box.update(files, 10.0)
    copy = copies / "weather" / FILE
    assert copy.read_bytes() == b"first"
    assert copy.stat().st_mtime_ns == source.stat().st_mtime_ns
    publish(source, b"second")
    box.update(files, 20.0)
    assert copy.read_bytes() == b"second"
    commands = [line.split()[0] for line in (tmp_path / "ssh.log").read_text().splitlines()]
    assert commands == ["list", "put", "put"]
    assert sorted(path.name for path in copies.rglob("*") if path.is_file()) == [".lock", FILE]


def test_copy_that_was_lost_or_restored_is_pushed_again(tmp_path: Path, copies: Path) -> None:
    gate, source = write_gate(copies), tmp_path / FILE
    publish(source, b"rows")
    target(gate).update({"weather": source}, 0.0)
    box = target(gate)
    box.update({"weather": source}, 0.0)
    assert (tmp_path / "ssh.log").read_text().split() == [
        "list",
        "put",
        "weather",
        "4",
        str(source.stat().st_mtime_ns),
        "list",
    ]
    (copies / "weather" / FILE).unlink()
    box.update({"weather": source}, push.REFRESH + 1)
    assert (copies / "weather" / FILE).read_bytes() == b"rows"


def test_problem_is_reported_once_and_its_end_too(
    tmp_path: Path, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box, source = target(write_gate(copies)), tmp_path / FILE
    publish(source, b"rows")
    (tmp_path / "ssh.broken").touch()
    box.update({"weather": source}, 0.0)
    box.update({"weather": source}, 10.0)
    assert capsys.readouterr().err == "dashboards: unreachable\n"
    (tmp_path / "ssh.broken").unlink()
    box.update({"weather": source}, 20.0)
    assert capsys.readouterr().err == "dashboards: works again\n"
    assert (copies / "weather" / FILE).read_bytes() == b"rows"


def test_refused_pipeline_stops_no_other(tmp_path: Path, copies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box, source = target(write_gate(copies)), tmp_path / FILE
    publish(source, b"rows")
    box.update({"unknown": source, "prices": source}, 0.0)
    assert "dashboards: refused: this key may run list, or put for weather, prices" in capsys.readouterr().err
    assert (copies / "prices" / FILE).exists()


def copies_of(record: Path) -> list[str]:
    """Return the metrics of two copies, of which the program has recorded some."""
    return LocalHost().run(copy_times(["dashboards weather", "dashboards prices"], f"cat {record}")).text.splitlines()


def metric(pipeline: str, time: int) -> str:
    return f'homelab_published_copy_timestamp_seconds{{reader="dashboards",pipeline="{pipeline}"}} {time}'


def test_failed_push_leaves_the_time_of_the_earlier_copy(tmp_path: Path, copies: Path) -> None:
    box, source, record = target(write_gate(copies)), tmp_path / FILE, tmp_path / "copies.txt"
    assert copies_of(record) == [metric("prices", 0), metric("weather", 0)], "before the first push"
    publish(source, b"first")
    os.utime(source, ns=(0, 1_000_000_000_999_999_999))
    box.update({"weather": source}, 0.0)
    push.record_copies([box], record)
    assert copies_of(record) == [metric("prices", 0), metric("weather", 1_000_000_000)]
    (tmp_path / "ssh.broken").touch()
    publish(source, b"second")
    box.update({"weather": source}, 10.0)
    push.record_copies([box], record)
    assert copies_of(record) == [metric("prices", 0), metric("weather", 1_000_000_000)]
    (tmp_path / "ssh.broken").unlink()
    box.update({"weather": source}, 20.0)
    push.record_copies([box], record)
    assert copies_of(record) == [metric("prices", 0), metric("weather", int(source.stat().st_mtime))]


def test_record_adds_no_other_metric(tmp_path: Path) -> None:
    record = tmp_path / "copies.txt"
    record.write_text('up 1\ndashboards other 5\ndashboards weather 5"\ndashboards weather 1e9\ndashboards prices 7\n')
    assert copies_of(record) == [metric("prices", 7), metric("weather", 0)]


@pytest.mark.parametrize(
    "command",
    [
        "",
        "id",
        "list weather",
        "put weather",
        "put weather 1",
        "put weather x 1",
        "put weather 1 -1",
        "put weather 1 1 1",
        "put ../weather 1 1",
        "put other 1 1",
        "put weather 1 $(id)",
        "put weather 1 1; id",
        "put weather 1 1000000000\nid",
        "put * 1 1",
    ],
)
def test_gate_refuses_all_other_commands(copies: Path, command: str) -> None:
    done = run_gate(write_gate(copies), command, b"x")
    if "\n" in command:  # the second line is never read
        assert done.returncode == 0
        assert done.stdout == b""
    else:
        assert (done.returncode, done.stdout) == (126, b"")
        assert done.stderr.startswith(b"refused: ")
        assert list(copies.rglob(f"*{FILE}")) == []


def test_copy_that_ended_early_leaves_the_earlier_one(copies: Path) -> None:
    gate = write_gate(copies)
    assert run_gate(gate, "put weather 5 1000000000000000001", b"whole").returncode == 0
    done = run_gate(gate, "put weather 100 2000000000000000000", b"a part")
    assert done.stderr == b"refused: weather ended early\n"
    assert [path.name for path in sorted((copies / "weather").iterdir())] == [".lock", FILE]
    assert run_gate(gate, "list").stdout == b"weather 5 1000000000.000000001\n"
    assert push.parse_copies("weather 5 1000000000.000000001\n") == {"weather": (5, 1000000000000000001)}


def test_copy_without_space_is_refused_before_it_is_read(copies: Path) -> None:
    done = run_gate(write_gate(copies, reserve=2**60), "put weather 5 1", b"whole")
    assert b"no space for the 5 bytes of weather" in done.stderr
    assert not (copies / "weather" / FILE).exists()


@pytest.mark.parametrize("program", ["publications/push.py", "superset/setup.py", "metabase/setup.py"])
def test_program_is_strictly_typed(program: str) -> None:
    mypy = [str(Path(sys.executable).with_name("mypy")), "--strict", "--ignore-missing-imports", "--no-error-summary"]
    done = subprocess.run(
        [*mypy, str(bundled_path(f"templates/{program}"))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
