#!/usr/bin/python3 -I
"""Print a metric with the error message of each failed task, from its log.

Standard input: a JSON list of [DAG, run, task]. Argument: the folder of Airflow's logs. Airflow 3 writes JSON lines,
2.11 text.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_READ = 1 << 16  # bytes of the end of a log
_LONGEST = 400  # characters of the words
_TEXT_LINE = re.compile(r"\[[^]]*\] \{(?P<origin>[^}]*)\} (?P<level>[A-Z]+) - (?P<text>.*)")
_OWN = (
    "Task failed with exception",
    "Failed to execute job",  # of 2.11: with the text of the exception
    "Marking task as",
    "Task instance in failure state",
    "Process exited",
)


def words(lines: list[str]) -> str:
    """Return the last line that a program wrote to standard error, and the exception of the task."""
    warnings, exceptions = list[str](), list[str]()
    for kind, text in _entries(lines):
        (exceptions if kind == "exception" else warnings).append(text)
    return ": ".join(dict.fromkeys([*exceptions[-1:], *warnings[-1:]]))


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the warnings, errors and exceptions of a log."""
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict):
            for error in entry.get("error_detail") or ():
                yield "exception", f"{error.get('exc_type')}: {error.get('exc_value')}"
            found = (str(entry.get("level", "")).upper(), str(entry.get("event", "")))
        elif match := _TEXT_LINE.match(line):
            found = (match["level"], match["text"])
        else:
            if error := re.match(r"(?:[\w.]+\.)?(\w*(?:Error|Exception|Exit)\w*: .*)", line):
                yield "exception", error[1]
            continue
        if found[0] in ("WARNING", "ERROR") and found[1] and not found[1].startswith(_OWN):
            yield "warning", found[1]


def last_log(folder: Path) -> list[str]:
    """Return the lines at the end of the newest log of a task; none if there is no log."""
    found = sorted(folder.rglob("attempt=*.log"), key=lambda path: path.stat().st_mtime)
    if not found:
        return []
    with found[-1].open("rb") as file:
        file.seek(max(0, found[-1].stat().st_size - _READ))
        return file.read(_READ).decode(errors="replace").splitlines()


def label(text: str) -> str:
    """Return a text as the value of a label: a line of ASCII without quotes and backslashes."""
    line = " ".join(text.split()).replace('"', "'").replace("\\", "/")
    return re.sub("[^ -~]", "?", line)[:_LONGEST]


def main() -> None:
    """Print the metrics."""
    for dag, run, task in json.load(sys.stdin):
        try:
            text = words(last_log(Path(sys.argv[1], f"dag_id={dag}", f"run_id={run}", f"task_id={task}")))
        except OSError:
            text = ""
        labels = f'dag="{label(dag)}",task="{label(task)}",message="{label(text)}"'
        print(f"homelab_airflow_dag_failed_task{{{labels}}} 1")


if __name__ == "__main__":
    main()
