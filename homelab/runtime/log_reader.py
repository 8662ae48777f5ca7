"""The program that prints log files as lines of `journalctl --output=json`: homelab sends its text to a container.

Standard library only. Its argument is a JSON object: `sources`, a list of sources with the `user` that reads each; or a
single source without `user`. A source has the keys of `Source`.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import select
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

_LARGEST = 16 << 20  # bytes read from the end of a file
_INTERVAL = 1.0  # seconds between two searches for new lines
_PRIORITIES = {"critical": 3, "error": 3, "warning": 4, "warn": 4, "info": 6, "debug": 7}
# A line of Airflow 2.11; the following lines without a time belong to it.
_OLD_LINE = re.compile(r"\[(\d{4}-\d\d-\d\dT[\d:.]+[+-]\d{4})\] \{[^}]*\} ([A-Z]+) - (.*)")
_TASK = re.compile(r"dag_id=([^/]+)/run_id=[^/]+/task_id=([^/]+)/(?:map_index=\d+/)?attempt=\d+\.log")

Line = tuple[float, str, int, str]  # time, unit, priority, text


@dataclass
class Source:
    """Files to print: those of dbt in a folder, as lines of `unit`, or those of Airflow's tasks.

    `dags` are names of DAGs, or of tasks such as `prices.fetch`; without one, all are read.

    Of the lines with at most this `priority`, the last `lines` since a time in seconds; None: all.
    """

    folder: str
    unit: str = ""
    dags: list[str] = field(default_factory=list)
    priority: int = 7
    lines: int | None = None
    since: float | None = None
    follow: bool = False

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the path and the unit of each file."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                if self.unit:
                    if name.startswith("dbt.log"):
                        yield path, self.unit
                elif task := self._task(os.path.relpath(path, self.folder)):
                    yield path, task

    def _task(self, path: str) -> str:
        """Return the name of the task of a file; "" for other files, and for tasks that are not wanted."""
        if not (found := _TASK.fullmatch(path)):
            return ""
        dag, task = found.groups()
        return f"{dag}.{task}" if not self.dags or dag in self.dags or f"{dag}.{task}" in self.dags else ""


def parse(text: str) -> tuple[float, int, str] | None:
    """Return time, priority and text of a line of dbt's JSON or of Airflow's logs; None for any other."""
    try:
        if not text.startswith("{"):
            old = _OLD_LINE.match(text)
            return (_seconds(old[1]), _PRIORITIES.get(old[2].lower(), 6), old[3]) if old else None
        entry: dict[str, Any] = json.loads(text)
        if "info" in entry:
            info = entry["info"]
            return _seconds(info["ts"]), _PRIORITIES.get(info["level"], 6), str(info["msg"])
        return _seconds(entry["timestamp"]), _PRIORITIES.get(entry.get("level", ""), 6), _event(entry)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _event(entry: dict[str, Any]) -> str:
    """Return the text of a line of Airflow 3, with the type and the message of its exceptions."""
    errors = [f"{each['exc_type']}: {each['exc_value']}" for each in entry.get("error_detail") or ()]
    return "\n".join([str(entry["event"]), *errors])


class Reader:
    """A reader of the files of a source; each call continues at the end of the previous one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ends: dict[tuple[int, int], int] = {}  # by device and inode, as dbt renames its files

    def history(self) -> list[Line]:
        """Return the lines that exist already, by time."""
        found, count, since = list[Line](), self._source.lines, self._source.since or 0.0
        for path, unit, state in sorted(self._stats(), key=lambda each: -each[2].st_mtime):
            if state.st_mtime < since or count == 0:
                self._ends[state.st_dev, state.st_ino] = state.st_size
                continue
            self._ends[state.st_dev, state.st_ino] = max(state.st_size - _LARGEST, 0)
            found += [line for line in self._new_lines(path, unit) if line[0] >= since]
            if count and len(found) >= count:
                found = heapq.nlargest(count, found)
                since = max(since, found[-1][0])  # no older line is shown
        return sorted(found)

    def new(self) -> list[Line]:
        """Return the lines since the last call, by time."""
        return sorted(
            line
            for path, unit, state in self._stats()
            if self._ends.get((state.st_dev, state.st_ino)) != state.st_size
            for line in self._new_lines(path, unit)
        )

    def _stats(self) -> Iterator[tuple[str, str, os.stat_result]]:
        for path, unit in self._source.files():
            try:
                state = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(state.st_mode):
                yield path, unit, state

    def _new_lines(self, path: str, unit: str) -> Iterator[Line]:
        """Yield the complete lines after the known end of a file; those without a time belong to the one before."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                return
            begin = self._ends.get((state.st_dev, state.st_ino), 0)
            file.seek(begin if begin <= state.st_size else 0)
            data = file.read(_LARGEST)
            complete = data[: data.rfind(b"\n") + 1] or data[: _LARGEST if len(data) == _LARGEST else 0]
            self._ends[state.st_dev, state.st_ino] = file.tell() - len(data) + len(complete)
        before: tuple[float, int] | None = None
        for text in complete.decode(errors="replace").split("\n")[:-1]:
            if found := parse(text):
                moment, priority, text = found
                before = moment, priority
            if before and before[1] <= self._source.priority:
                yield before[0], unit, before[1], text


def show(lines: list[Line]) -> None:
    """Print lines as journalctl does."""
    for moment, unit, priority, text in lines:
        entry = {"__REALTIME_TIMESTAMP": str(int(moment * 1e6)), "PRIORITY": str(priority), "UNIT": unit}
        print(json.dumps({**entry, "MESSAGE": text}))
    sys.stdout.flush()


def run(source: Source) -> None:
    """Print the lines of a source; with `follow`, until the reader of the output ends."""
    reader = Reader(source)
    show(reader.history())
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLERR | select.POLLHUP)
    while source.follow and not output.poll(int(_INTERVAL * 1000)):
        show(reader.new())


def run_all(sources: list[dict[str, Any]]) -> int:
    """Run one process for each source, with its user; print their lines one after another. Return the worst status."""
    lock, children = threading.Lock(), []

    def copy(child: subprocess.Popen[bytes]) -> None:
        for line in child.stdout or ():
            with lock:
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()

    for source in sources:
        user = source.pop("user")
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--", *sys.orig_argv[:-1]]
        children.append(subprocess.Popen([*words, json.dumps(source)], cwd="/", stdout=subprocess.PIPE))
    threads = [threading.Thread(target=copy, args=(child,), daemon=True) for child in children]
    for thread in threads:
        thread.start()
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLERR | select.POLLHUP)
    while any(thread.is_alive() for thread in threads) and not output.poll(100):
        pass
    if output.poll(0):
        for child in children:
            child.terminate()
    return max(child.wait() for child in children)


def main() -> int:
    """Run the request of the argument."""
    request: dict[str, Any] = json.loads(sys.argv[1])
    try:
        if "sources" in request:
            return run_all(request["sources"])
        run(Source(**request))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end
    return 0


if __name__ == "__main__":
    sys.exit(main())
