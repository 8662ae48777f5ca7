"""`homelab top`: the picture fits each terminal, keys end it, and the terminal is restored in any case."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from homelab.cli.sparkline import sparkline
from homelab.cli.top_screen import draw
from homelab.host import Result
from homelab.paths import bundled_path
from homelab.runtime.container_usage import USAGE, ContainerUsage
from homelab.runtime.database_activity import DatabaseActivity, DatabaseSession
from homelab.runtime.journals import LogLine
from homelab.runtime.lab_sample import ContainerSample, LabSample, PipelineSample
from homelab.runtime.usage_history import HistoryRecorder, UsageHistory
from tests.support import LocalHost

NOW = datetime(2026, 11, 27, 7, 10, tzinfo=UTC)
GIB = 2**30
UNITS = {"airflow-api-server.service": "active", "airflow-scheduler.service": "failed"}
SAMPLE = LabSample(
    lab="home",
    time=NOW,
    containers=[
        ContainerSample(
            name=name,
            status="running",
            cores=2,
            cpu=0.25,
            memory=GIB,
            memory_total=4 * GIB,
            disk=4 * GIB,
            disk_total=16 * GIB,
            units=units,
        )
        for name, units in (("postgres-data", {"a.service": "active"}), ("airflow-orchestration", UNITS))
    ],
    pipelines=[PipelineSample(name="weather", healthy=True, summary="last run success at 07:00", age=600)],
    database=DatabaseActivity(
        12, 100, 1, 1, [DatabaseSession(7, "airflow_metadata", "airflow_admin", "active", 3.2, "select " + "x" * 300)]
    ),
    history=UsageHistory("Prometheus, the last hour", {"postgres-data": [n / 60 for n in range(60)]}, {}, [1, 2, 12]),
    logs=[
        LogLine(NOW - timedelta(seconds=60 - n), "box", "airflow-scheduler", "info", f"line {n}\x1b[2J " + "y" * 300)
        for n in range(60)
    ],
)
MANY = replace(SAMPLE, containers=SAMPLE.containers[:1] * 40, problem="Cannot reach the node: no answer")
BARE = replace(SAMPLE, pipelines=[], database=None, logs=[], history=UsageHistory("samples since 07:10:00"))


@pytest.mark.parametrize("sample", [SAMPLE, MANY, BARE], ids=["usual", "many containers", "bare"])
@pytest.mark.parametrize("size", [(80, 24), (200, 50), (80, 60), (40, 10), (20, 3)])
def test_picture_fits_the_terminal(sample: LabSample, size: tuple[int, int]) -> None:
    width, height = size
    lines = draw(sample, width, height, "every 5 s; q quits").split("\n")
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width


def test_picture_on_80_columns_has_all_parts() -> None:
    shown = draw(SAMPLE, 80, 24, "every 5 s; q quits").plain
    for text in (
        "every 5 s; q quits",
        r"postgres-data           25% ▁▂▃▄▄▅▆▇█  1.0/4.0 GiB             25%  1/1",
        "✗ airflow-scheduler.service: failed",
        "sparklines: Prometheus, the last hour",
        "✓ weather             built 10 min 00 s ago; last run success at 07:00",
        "PostgreSQL 12 of 100 connections, 1 active, 1 idle in transaction ",
        "airflow_admin@airflow_metadata 3.2 s: select xxx",
        "line 59",
    ):
        assert text in shown, shown
    assert "\x1b" not in shown


def with_texts(text: str) -> LabSample:
    """Return a sample in which all texts from containers are this one."""
    return replace(
        SAMPLE,
        containers=[replace(SAMPLE.containers[0], units={"a.service": text}, problem=text)],
        pipelines=[PipelineSample(name="weather", healthy=False, summary=text)],
        database=DatabaseActivity(1, 100, 1, 0, [DatabaseSession(1, text, text, "active", 1.0, text)]),
        logs=[LogLine(NOW, "box", text, "info", text)],
        problem=text,
    )


def test_hostile_texts_do_not_change_the_picture() -> None:
    lines = draw(with_texts("a\nb\tc\x1b[2J\u2028d\ud800" + "x" * 200), 80, 200).split("\n")
    assert len(lines) == len(draw(with_texts("text"), 80, 200).split("\n"))
    assert all(line.cell_len <= 80 for line in lines)
    shown = "\n".join(line.plain for line in lines)
    shown.encode()
    assert not {"\t", "\x1b", "\u2028"} & {*shown}


def test_few_rows_show_the_number_of_further_lines() -> None:
    shown = draw(MANY, 80, 24).plain
    assert re.search(r"… \d+ more lines: use a higher terminal", shown)
    assert "line 59" in shown, "the log keeps some lines"


def test_stopped_container_has_its_state() -> None:
    stopped = replace(SAMPLE, containers=[ContainerSample(name="postgres-data", status="stopped")])
    assert re.search("postgres-data +stopped", draw(stopped, 80, 24).plain)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "    "),
        ([0.0, 1.0], "  ▁█"),
        ([2.0, -1.0], "  █▁"),
        ([0, 0, 1, 1, 0, 0, 1, 1], "▁█▁█"),
        ([0.5] * 9, "▅▅▅▅"),
    ],
)
def test_sparkline_averages_the_values_of_a_column(values: list[float], expected: str) -> None:
    assert sparkline(values, 4, 1.0) == expected


def usage(text: str) -> ContainerUsage | None:
    return ContainerUsage.parse(Result("", 0, text.encode()))


def test_use_of_a_container_is_that_of_its_control_group_if_it_has_a_limit() -> None:
    common = "at 10\ncpu 7\nused 900\ncache 100\ntotal 5000\navailable 3000\ndisk 4\ndisk_total 8\n"
    assert usage(common + "limit 1000\n") == ContainerUsage(10, 7, 800, 1000, 4, 8)
    assert usage(common + "limit max\n") == usage(common) == ContainerUsage(10, 7, 2000, 5000, 4, 8)
    assert [usage(text) for text in ("", "at 1", "x y z", "at one")] == [None] * 4


def test_processor_use_is_that_since_the_reading_before() -> None:
    first = ContainerUsage(0, 1_000, 0, 1, 0, 1)
    assert replace(first, at=1_000_000, cpu=501_000).cpu_since(first, 2) == 0.25
    assert first.cpu_since(None, 2) is None
    assert replace(first, at=1, cpu=0).cpu_since(first, 2) is None, "it was restarted"


def test_probe_reads_a_linux_machine() -> None:
    found = ContainerUsage.parse(LocalHost().run(USAGE))
    assert found is None or (found.memory_total > found.memory > 0 and found.disk_total > 0)


def test_activity_has_the_statements_of_sessions() -> None:
    session = {"pid": 7, "database": "d", "role": "r", "state": "active", "seconds": 3.5, "statement": "select 1"}
    counts = {"connections": 3, "limit": 100, "active": 1, "idle_in_transaction": 0}
    found = DatabaseActivity.parse(Result("", 0, json.dumps({**counts, "sessions": [session]}).encode()))
    assert found == DatabaseActivity(3, 100, 1, 0, [DatabaseSession(7, "d", "r", "active", 3.5, "select 1")])
    assert DatabaseActivity.parse(Result("", 2, b"")) is None


@dataclass
class Clock:
    """A clock that a test sets."""

    now: float = 10_000.0

    def __call__(self) -> float:
        return self.now


def answers(*values: str) -> list[Result]:
    rows = [{"metric": {"container": "box"}, "values": [[1, value] for value in values]}]
    answer = Result("", 0, json.dumps({"data": {"result": rows}}).encode())
    return [answer, Result("", 7, b""), Result("", 0, b"not JSON")]


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_values_of_prometheus_that_are_no_numbers_are_left_out(value: str) -> None:
    recorder = HistoryRecorder(NOW, Clock())
    recorder.answer(answers(value, value, value))
    history = recorder.history()
    assert not any([*history.cpu.values(), *history.memory.values(), history.connections])


def test_history_is_that_of_prometheus_and_else_that_of_the_samples() -> None:
    clock = Clock()
    recorder = HistoryRecorder(NOW, clock)
    assert len(recorder.probes()) == 3
    recorder.record({("cpu", "box"): 0.1, ("memory", "box"): 0.5, ("connections", ""): 3})
    assert recorder.history() == UsageHistory("samples since 07:10:00", {"box": [0.1]}, {"box": [0.5]}, [3])
    recorder.answer(answers("0.5", "0.6"))
    assert recorder.history() == UsageHistory("Prometheus, the last hour", {"box": [0.5, 0.6]}, {"box": [0.5]}, [3])
    assert recorder.probes() == (), "it is asked once a minute"
    clock.now += 3601
    recorder.record({("memory", "box"): 0.7})
    assert recorder.history().memory == {"box": [0.7]}, "older samples are dropped"


FAKE = """
import sys
from dataclasses import replace
from homelab.commands import top
from tests.unit.test_top import SAMPLE
class Fake:
    number = 0
    def sample(self):
        self.number += 1
        if self.number == 2 and FAILING: raise FAILING
        return replace(SAMPLE, lab=f"number-{self.number}")
    def close(self): print("closed", file=sys.stderr)
top.top = lambda _: Fake()
"""


@dataclass
class Terminal:
    """`homelab top` with fake samples on a terminal of its own."""

    process: subprocess.Popen[bytes]
    ours: int
    theirs: int
    before: list[object]
    shown: str = ""

    def read(self, text: str) -> None:
        """Read until a text is shown."""
        until = time.monotonic() + 120
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            if select.select([self.ours], [], [], 0.2)[0]:
                self.shown += os.read(self.ours, 65536).decode(errors="replace")

    def end(self) -> int:
        """Wait for the end, and check that the terminal is as before."""
        status = self.process.wait(20)
        while select.select([self.ours], [], [], 0.2)[0]:
            self.shown += os.read(self.ours, 65536).decode(errors="replace")
        assert termios.tcgetattr(self.theirs) == self.before
        assert self.shown.count("\x1b[?1049h") == self.shown.count("\x1b[?1049l") == 1
        assert self.shown.rindex("\x1b[?25h") > self.shown.rindex("\x1b[?25l"), "the cursor is visible"
        return status


def start(width: int, height: int, failing: str = "None", option: str = "--interval=1") -> Terminal:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    words = ["homelab", "-i", str(bundled_path("inventory.yaml")), "top", option]
    code = f"FAILING = {failing}\n{FAKE}\nsys.argv = {words!r}\nfrom homelab.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", sys.executable, "-c", code],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=Path(__file__).parents[2],
        env={**environment, "TERM": "xterm-256color"},
    )
    return Terminal(process, ours, theirs, termios.tcgetattr(theirs))


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for each in started:
        each.process.kill()
        each.process.wait()
        os.close(each.ours)
        os.close(each.theirs)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)])
def test_q_ends_the_view_and_restores_the_terminal(terminals: list[Terminal], width: int, height: int) -> None:
    terminals.append(terminal := start(width, height))
    terminal.read("number-2")
    assert termios.tcgetattr(terminal.theirs)[3] & termios.ECHO == 0
    os.write(terminal.ours, b"xq")
    assert terminal.end() == 0
    assert "closed" in terminal.shown
    # Cursor movements and colours have no width.
    frame = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown.split("number-2")[1].split("closed")[0])
    assert max(len(line) for line in frame.split("\r\n")) <= width


def test_ctrl_c_ends_the_view_quietly_and_restores_the_terminal(terminals: list[Terminal]) -> None:
    terminals.append(terminal := start(80, 24))
    terminal.read("number-1")
    os.write(terminal.ours, b"\x03")
    assert terminal.end() == 130
    assert "Interrupted" not in terminal.shown


def test_signal_to_end_restores_the_terminal(terminals: list[Terminal]) -> None:
    terminals.append(terminal := start(80, 24))
    terminal.read("number-1")
    terminal.process.terminate()
    assert terminal.end() == 128 + signal.SIGTERM


def test_internal_error_restores_the_terminal_and_is_reported(terminals: list[Terminal]) -> None:
    terminals.append(terminal := start(80, 24, "ValueError('no such thing')"))
    assert terminal.process.wait(30) == 1
    assert terminal.end() == 1
    assert "ValueError: no such thing" in terminal.shown.split("\x1b[?1049l")[1]


def test_error_of_a_sample_is_shown_and_the_next_one_follows(terminals: list[Terminal]) -> None:
    failing = "__import__('homelab.errors').errors.HomelabError('Cannot connect', 'no answer', 'Start it.')"
    terminals.append(terminal := start(80, 24, failing))
    terminal.read("Cannot connect")
    terminal.read("number-3")
    os.write(terminal.ours, b"q")
    assert terminal.end() == 0


def once(words: list[str], variables: dict[str, str]) -> str:
    """Return the output of `homelab top` without a terminal."""
    arguments = ["homelab", "-i", str(bundled_path("inventory.yaml")), "top", *words]
    code = f"FAILING = None\n{FAKE}\nsys.argv = {arguments!r}\nfrom homelab.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**environment, **variables},
        check=True,
        timeout=60,
    )
    return done.stdout


def test_one_sample_is_printed_as_json() -> None:
    found = json.loads(once(["--once", "--json"], {}))
    assert found["containers"][1]["units"] == UNITS
    assert found["time"] == "2026-11-27 07:10:00+00:00"


@pytest.mark.parametrize("words", [[], ["--once"]])
@pytest.mark.parametrize(("variables", "height"), [({}, 24), ({"LINES": "40"}, 40), ({"LINES": ""}, 24)])
def test_one_sample_without_a_terminal_has_24_lines_or_those_of_the_environment(
    words: list[str], variables: dict[str, str], height: int
) -> None:
    shown = once(words, variables)
    assert "\x1b[" not in shown
    assert shown.startswith("lab number-1")
    assert len(shown.splitlines()) == height
    assert "line 59" in shown, "the newest lines of the log"


def test_one_sample_on_a_terminal_has_its_height(terminals: list[Terminal]) -> None:
    terminals.append(terminal := start(100, 30, option="--once"))
    terminal.read("closed")
    assert terminal.process.wait(20) == 0
    assert len(terminal.shown.split("closed")[0].splitlines()) == 30
    assert "line 59" in terminal.shown
