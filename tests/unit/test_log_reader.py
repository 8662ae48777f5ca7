"""The program that reads the logs of dbt and of Airflow's tasks in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.runtime import log_reader
from homelab.runtime.journals import LogLine, parse_line
from homelab.runtime.log_reader import Reader, Source
from homelab.runtime.log_sources import reader_command

BEGIN = datetime(2026, 11, 27, 6, tzinfo=UTC).timestamp()


def stamp(second: float) -> str:
    return datetime.fromtimestamp(BEGIN + second, UTC).isoformat()


def event(second: float, text: str, level: str = "info", **more: Any) -> str:
    """Return a line of Airflow 3."""
    return json.dumps({"timestamp": stamp(second), "event": text, "level": level, "logger": "task", **more}) + "\n"


def old_event(second: float, text: str, level: str = "INFO") -> str:
    """Return a line of Airflow 2.11."""
    moment = datetime.fromtimestamp(BEGIN + second, UTC)
    return f"[{moment:%Y-%m-%dT%H:%M:%S}.000+0000] {{ssh.py:504}} {level} - {text}\n"


def dbt(second: float, text: str, level: str = "info") -> str:
    return json.dumps({"data": {}, "info": {"level": level, "msg": text, "ts": stamp(second)}}) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def attempt(folder: Path, dag: str, task: str, run: str = "r1", rest: str = "attempt=1.log") -> Path:
    return folder / f"dag_id={dag}" / f"run_id={run}" / f"task_id={task}" / rest


def texts(lines: Sequence[log_reader.Line]) -> list[tuple[str, str]]:
    return [(unit, text) for _, unit, _, text in lines]


def test_logs_of_tasks_are_merged_by_time_with_the_names_of_dag_and_task(tmp_path: Path) -> None:
    write(attempt(tmp_path, "prices", "fetch"), event(1, "one"), event(3, "three"))
    write(attempt(tmp_path, "prices", "build", rest="map_index=0/attempt=2.log"), event(2, "two"))
    write(attempt(tmp_path, "other", "x"), event(2.5, "of another DAG"))
    write(tmp_path / "dag_processor" / "2026-11-27" / "a.py.log", event(2, "no task"))
    assert texts(Reader(Source(str(tmp_path), dags=["prices"])).history()) == [
        ("prices.fetch", "one"),
        ("prices.build", "two"),
        ("prices.fetch", "three"),
    ]
    assert texts(Reader(Source(str(tmp_path), dags=["prices.build"])).history()) == [("prices.build", "two")]
    assert ("other.x", "of another DAG") in texts(Reader(Source(str(tmp_path))).history())


def test_lines_without_a_time_belong_to_the_line_before(tmp_path: Path) -> None:
    file = attempt(tmp_path, "a", "t")
    write(file, "no time yet\n", old_event(1, "failed", "ERROR"), "Traceback\n", old_event(2, "next"))
    found = Reader(Source(str(tmp_path))).history()
    assert found == [(BEGIN + 1, "a.t", 3, "Traceback"), (BEGIN + 1, "a.t", 3, "failed"), (BEGIN + 2, "a.t", 6, "next")]


def test_exception_of_airflow_3_is_part_of_the_text(tmp_path: Path) -> None:
    detail = [{"exc_type": "AirflowException", "exc_value": "exit status 7", "frames": []}]
    write(attempt(tmp_path, "a", "t"), event(1, "Task failed", "error", error_detail=detail))
    assert texts(Reader(Source(str(tmp_path))).history()) == [("a.t", "Task failed\nAirflowException: exit status 7")]


def test_log_of_dbt_has_the_rotated_files_and_its_level(tmp_path: Path) -> None:
    write(tmp_path / "dbt.log.1", dbt(1, "earlier"), dbt(2, "select 1", "debug"))
    write(tmp_path / "dbt.log", dbt(3, "Failure in test", "error"), dbt(4, "incomplete")[:-1])
    source = Source(str(tmp_path), unit="prices.dbt")
    assert [(text, priority) for _, _, priority, text in Reader(source).history()] == [
        ("earlier", 6),
        ("select 1", 7),
        ("Failure in test", 3),
    ]
    source.priority = 6
    assert texts(Reader(source).history()) == [("prices.dbt", "earlier"), ("prices.dbt", "Failure in test")]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"lines": 3}, ["2", "3", "4"]),
        ({"lines": 0}, []),
        ({"since": BEGIN + 3}, ["3", "4"]),
        ({"since": BEGIN + 1, "lines": 1}, ["4"]),
    ],
)
def test_last_lines_and_those_since_a_time(tmp_path: Path, limits: dict[str, Any], expected: list[str]) -> None:
    for number in range(5):
        file = write(attempt(tmp_path, "a", "t", f"r{number}"), event(number, str(number)))
        os.utime(file, (BEGIN + number, BEGIN + number))
    assert [text for _, text in texts(Reader(Source(str(tmp_path), **limits)).history())] == expected


def test_new_lines_follow_also_in_new_and_rotated_files(tmp_path: Path) -> None:
    log = write(tmp_path / "dbt.log", dbt(1, "old"), dbt(2, "half")[:10])
    reader = Reader(Source(str(tmp_path), unit="a.dbt", lines=0))
    assert reader.history() == []
    write(log, dbt(1, "old"), dbt(2, "half"), dbt(3, "third"))
    assert [text for _, text in texts(reader.new())] == ["third"], "the first part of a line is not shown"
    log.rename(tmp_path / "dbt.log.1")
    write(log, dbt(4, "fourth"))
    assert [text for _, text in texts(reader.new())] == ["fourth"]
    assert reader.new() == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_only_plain_files_are_read(tmp_path: Path, kind: str) -> None:
    secret = write(tmp_path / "secret", dbt(1, "root's"))
    logs = tmp_path / "logs"
    logs.mkdir()
    if kind == "link":
        (logs / "dbt.log").symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(logs / "dbt.log")
    else:
        (logs / "dbt.log").mkdir()
    assert Reader(Source(str(logs), unit="a.dbt")).history() == []


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"info": 1}', '{"info": {"ts": "x"}}', '{"timestamp": 1}', "[" * 9])
def test_any_other_line_has_no_time(text: str) -> None:
    assert log_reader.parse(text) is None


def test_characters_that_end_a_line_elsewhere_are_part_of_a_line(tmp_path: Path) -> None:
    text = "a\u2028b\x85c"
    line = json.dumps({"timestamp": stamp(1), "event": text, "level": "info"}, ensure_ascii=False) + "\n"
    write(attempt(tmp_path, "a", "t"), line)
    assert texts(Reader(Source(str(tmp_path))).history()) == [("a.t", text)]


def test_line_without_an_end_does_not_stop_the_following_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_reader, "_LARGEST", 1000)
    reader = Reader(Source(str(tmp_path)))
    assert reader.history() == []
    write(attempt(tmp_path, "a", "t"), "x" * 2500 + "\n", event(1, "next"))
    found = [line for _ in range(4) for line in reader.new()]
    assert ("a.t", "next") in texts(found)


def command(folder: Path, **limits: Any) -> list[str]:
    """Return the words of the command for two sources, with this process's user instead of the service's."""
    sources = [{"user": "0", "folder": str(folder / name), "unit": f"{name}.dbt"} for name in ("a", "b")]
    return ["sh", "-c", reader_command(sources, limits)]


@pytest.mark.skipif(os.geteuid() != 0, reason="setpriv changes the user only as root")
def test_command_prints_lines_as_the_journal_does(tmp_path: Path) -> None:
    write(tmp_path / "a" / "dbt.log", dbt(1, "eins \x1b[31m", "warn"))
    write(tmp_path / "b" / "dbt.log", dbt(2, "zwei"))
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=True, timeout=30)
    found = sorted(filter(None, (parse_line("box", line) for line in done.stdout.splitlines())))
    assert found == [
        LogLine(datetime.fromtimestamp(BEGIN + 1, UTC), "box", "a.dbt", "warning", "eins \x1b[31m"),
        LogLine(datetime.fromtimestamp(BEGIN + 2, UTC), "box", "b.dbt", "info", "zwei"),
    ]
    assert [line.level for line in found] == ["warning", "info"]


@pytest.mark.skipif(os.geteuid() != 0, reason="setpriv changes the user only as root")
def test_following_ends_with_the_reader_of_the_output(tmp_path: Path) -> None:
    log = write(tmp_path / "a" / "dbt.log", dbt(1, "old"))
    process = subprocess.Popen(command(tmp_path, follow=True), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "old" in process.stdout.readline()
    with log.open("a") as file:
        file.write(dbt(2, "new"))
    assert "new" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(10) is not None
    children = Path(f"/proc/{process.pid}")
    assert not children.exists()
    until = time.monotonic() + 10
    while subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < until, "a process still reads the files"
        time.sleep(0.2)


def test_program_needs_nothing_but_python(tmp_path: Path) -> None:
    write(tmp_path / "dbt.log", dbt(1, "one"))
    program = Path(log_reader.__file__).read_text()
    words = [sys.executable, "-I", "-S", "-c", program, json.dumps({"folder": str(tmp_path), "unit": "u"})]
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=True, timeout=30)
    assert json.loads(done.stdout)["MESSAGE"] == "one"
