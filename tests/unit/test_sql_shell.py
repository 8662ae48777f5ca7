"""The SQL shell: statements, dot commands, history."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from homelab.errors import HomelabError, InputError
from homelab.runtime.sql_shell import SqlShell, history_file, split_statements

TABLES = [{"table_name": "stg_weather", "table_type": "VIEW"}, {"table_name": "weather_daily", "table_type": "TABLE"}]


class Shell:
    """A shell on an engine that returns each statement as its row."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.shown: list[object] = []
        self.echoed: list[str] = []
        self.prompts: list[str] = []
        self.shell = SqlShell(self._run, self.shown.append, self.echoed.append)

    def _run(self, sql: str) -> list[dict[str, object]]:
        self.ran.append(sql)
        if "wrong" in sql:
            raise InputError("Cannot run the query: DuckDB refuses it", "no such column", "fix it")
        return TABLES if "information_schema.tables" in sql else [{"sql": sql}]

    def reader(self, lines: list[str | type[BaseException]]) -> Callable[[str], str]:
        waiting = list(lines)

        def read(prompt: str) -> str:
            self.prompts.append(prompt)
            line = waiting.pop(0) if waiting else EOFError
            if isinstance(line, str):
                return line
            raise line

        return read


@pytest.mark.parametrize(
    ("text", "statements", "rest"),
    [
        ("select 1;", ["select 1"], ""),
        ("select 1; select 2", ["select 1"], " select 2"),
        ("select ';';", ["select ';'"], ""),
        ("select 'it''s; so';", ["select 'it''s; so'"], ""),
        ('select 1 as "a;b";', ['select 1 as "a;b"'], ""),
        ("select 1 -- not; yet\n;", ["select 1 -- not; yet"], ""),
        ("select /* ; */ 1;", ["select /* ; */ 1"], ""),
        ("select 'open; ", [], "select 'open; "),
        ("select /* open; ", [], "select /* open; "),
        (";;", [], ""),
    ],
)
def test_split_statements(text: str, statements: list[str], rest: str) -> None:
    assert split_statements(text) == (statements, rest)


def test_statements_span_lines_with_a_continuation_prompt(tmp_path: Path) -> None:
    shell = Shell()
    shell.shell.interact(tmp_path / "h", shell.reader(["select", "1;", "select 2; select 3;"]))
    assert shell.ran == ["select\n1", "select 2", "select 3"]
    assert shell.prompts[:3] == ["homelab> ", "    ...> ", "homelab> "]


@pytest.mark.parametrize("end", [".quit", ".exit", ".QUIT", EOFError])
def test_it_ends_also_after_an_unfinished_statement(tmp_path: Path, end: str | type[BaseException]) -> None:
    shell = Shell()
    shell.shell.interact(tmp_path / "h", shell.reader(["select 'un", end, "select 2;"]))
    assert shell.ran == []


def test_ctrl_c_discards_the_statement_and_an_error_ends_only_its_own(tmp_path: Path) -> None:
    shell = Shell()
    shell.shell.interact(tmp_path / "h", shell.reader(["select 'x", KeyboardInterrupt, "select wrong;", "select 2;"]))
    assert shell.ran == ["select wrong", "select 2"]
    assert any("no such column" in line for line in shell.echoed)


def test_internal_tables_are_hidden_unless_asked_for(tmp_path: Path) -> None:
    shell = Shell()
    shell.shell.interact(tmp_path / "h", shell.reader([".tables", ".tables all", ".help", ".nope"]))
    assert shell.shown == [TABLES[1:], TABLES]
    assert "table_schema = current_schema()" in shell.ran[0]  # in PostgreSQL, it is not `main`
    text = "\n".join(shell.echoed)
    assert ".tables all" in text
    assert "Unknown command .nope" in text


def test_piped_statements_end_at_the_first_error() -> None:
    shell = Shell()
    shell.shell.run_all(["select 1;\n", ".tables\n", "select\n", "2\n"])
    assert shell.ran[0] == "select 1"
    assert shell.ran[-1] == "select\n2"
    with pytest.raises(HomelabError):
        shell.shell.run_all(["select wrong;", "select 3;"])
    assert "select 3" not in shell.ran


def test_history_is_in_the_users_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "homelab" / "query_history"
    readline = pytest.importorskip("readline")

    def read(prompt: str) -> str:
        if not readline.get_current_history_length():
            readline.add_history("select 42;")
            return "select 42;"
        raise EOFError

    readline.clear_history()
    Shell().shell.interact(history_file(), read)
    assert "select 42;" in history_file().read_text()


def test_ctrl_c_ends_a_running_statement_and_ctrl_d_leaves_the_shell(tmp_path: Path) -> None:
    program = (
        "import time; from pathlib import Path; from homelab.runtime.sql_shell import SqlShell\n"
        "run = lambda sql: time.sleep(60) if 'long' in sql else [{'n': sql}]\n"
        f"SqlShell(run, print, print).interact(Path({str(tmp_path)!r}) / 'h'); print('left')"
    )
    terminal, theirs = pty.openpty()
    words = ["setsid", "--ctty", "--wait", sys.executable, "-c", program]
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs)
    output = b""

    def expect(text: bytes) -> None:
        nonlocal output
        while text not in output:
            output += os.read(terminal, 4096)
        output = output.partition(text)[2]

    def interrupt() -> None:
        # Python's input() misses a signal that comes just before it waits for the terminal.
        os.write(terminal, b"\x03")
        while not select.select([terminal], [], [], 1)[0]:
            os.write(terminal, b"\x03")
        expect(b"homelab> ")

    expect(b"homelab> ")
    os.write(terminal, b"select 'half\n")
    expect(b"...> ")
    interrupt()
    os.write(terminal, b"long;\n")
    expect(b"long;")
    time.sleep(0.3)
    interrupt()
    os.write(terminal, b"select 2;\n")
    expect(b"'n': 'select 2'")
    expect(b"homelab> ")  # before it, the terminal is in canonical mode, and readline would not see Ctrl-D
    os.write(terminal, b"\x04")
    expect(b"left")
    assert process.wait(10) == 0
    os.close(terminal)
    os.close(theirs)
