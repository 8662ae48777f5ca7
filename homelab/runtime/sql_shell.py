"""An interactive SQL shell: statements up to their semicolon, dot commands, history."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from homelab.errors import HomelabError
from homelab.paths import state_folder
from homelab.runtime.interactive import default_interrupt
from homelab.runtime.marts import Rows

_PROMPT, _CONTINUATION = "homelab> ", "    ...> "
_HISTORY_LINES = 1000
_INTERNAL = ("stg_", "int_", "landing_", "snap_")  # models that only feed the marts
# The schema of the marts in DuckDB, and of the newest readings in PostgreSQL.
_TABLES = (
    "select table_name, table_type from information_schema.tables where table_schema = current_schema() order by 1"
)
_HELP = """\
.help          show this help
.tables        list the tables
.tables all    list internal tables, too
.quit          leave the shell; also .exit and Ctrl-D
Statements end with a semicolon and may span several lines. Ctrl-C discards the current one."""
# Quoted text, comments, and the semicolon that ends a statement.
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/|(;)|(['\"]|/\*)", re.DOTALL)


def history_file() -> Path:
    """Return the file of the shell's history, in the user's state folder (XDG_STATE_HOME)."""
    return state_folder() / "query_history"


def split_statements(text: str) -> tuple[list[str], str]:
    """Return the complete statements of a text, and the rest after the last semicolon outside quotes and comments."""
    statements, start = [], 0
    for token in _TOKEN.finditer(text):
        if token[2]:  # quotes or a comment that is not closed yet
            break
        if token[1]:
            statements.append(text[start : token.start()].strip())
            start = token.end()
    return [statement for statement in statements if statement], text[start:]


class SqlShell:
    """Runs statements from lines of input; `run` returns a statement's rows, `show` prints them."""

    def __init__(self, run: Callable[[str], Rows], show: Callable[[Rows], None], echo: Callable[[str], None]) -> None:
        self._run, self._show, self._echo = run, show, echo
        self._pending = ""

    def interact(self, history: Path, read: Callable[[str], str] = input) -> None:
        """Read statements from the terminal until .quit or Ctrl-D; an error ends its statement only."""
        self._echo("Statements end with a semicolon. .help lists the commands.")
        with _history(history), default_interrupt():
            while True:
                try:
                    line = read(_CONTINUATION if self._pending.strip() else _PROMPT)
                    if not self._accept(line):
                        return
                except HomelabError as error:
                    self._echo(f"Error: {error}")
                except KeyboardInterrupt:
                    self._pending = ""
                    self._echo("")
                except EOFError:
                    self._echo("")
                    return

    def run_all(self, lines: Iterable[str]) -> None:
        """Run statements from lines; the last one needs no semicolon. Raises HomelabError at the first error."""
        for line in lines:
            if not self._accept(line.rstrip("\n")):
                return
        if rest := self._pending.strip():
            self._show(self._run(rest))

    def _accept(self, line: str) -> bool:
        """Run the statements that a line completes, or its dot command; return False at .quit."""
        command = line.strip().lower().rstrip(";")
        if command in (".quit", ".exit"):
            return False
        if command.startswith("."):
            self._command(command)
            return True
        statements, self._pending = split_statements(f"{self._pending}{line}\n")
        for statement in statements:
            self._show(self._run(statement))
        return True

    def _command(self, command: str) -> None:
        if command in (".tables", ".tables all"):
            self._show([row for row in self._run(_TABLES) if command.endswith("all") or not _is_internal(row)])
        else:
            if command != ".help":
                self._echo(f"Unknown command {command}.")
            self._echo(_HELP)


def _is_internal(row: Mapping[str, object]) -> bool:
    return str(row["table_name"]).startswith(_INTERNAL)


@contextmanager
def _history(file: Path) -> Iterator[None]:
    """Load the history into readline and save it at the end; without readline or a writable file, have none."""
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_history_length(_HISTORY_LINES)
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(file)
