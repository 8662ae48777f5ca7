"""Detached processes, known by pid, start time and boot: a recycled pid is never taken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.errors import HomelabError

# The child writes down who it is and only then becomes the program, keeping pid and start time: there is no
# moment at which it runs and no pid file says so, wherever the parent is killed.
_LAUNCH = """
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/self/stat
printf '%s %s\\n' "$boot" "$stat" >"$0.new" && mv "$0.new" "$0" && exec "$@"
"""


def boot_id() -> str:
    """The kernel's random name of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/<pid>/stat says that we need; `started` is in clock ticks since boot."""

    pid: int
    state: str
    group: int
    started: int


def parse_stat(text: str) -> Stat:
    """Read one line of /proc/<pid>/stat; the name in brackets may hold anything, brackets too."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(int(head.split(" ", 1)[0]), fields[0], int(fields[2]), int(fields[19]))


def stat_of(pid: int) -> Stat | None:
    """The live process of that pid; None if there is none, or only a zombie of one."""
    try:
        stat = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.state in "ZX" else stat


def processes() -> Iterator[Stat]:
    """Every live process of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := stat_of(int(entry.name))):
            yield stat


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that we started, as its pid file tells it."""

    boot: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs, not another one with its number."""
        stat = stat_of(self.pid)
        return stat is not None and stat.started == self.started and self.boot == boot_id()


def parse_identity(text: str) -> Identity | None:
    """Read a pid file's content; None if it is not one."""
    boot, _, stat = text.strip().partition(" ")
    try:
        parsed = parse_stat(stat)
    except (ValueError, IndexError):
        return None
    return Identity(boot, parsed.pid, parsed.started)


def identity(pid_file: Path) -> Identity | None:
    """Who the pid file speaks of, alive or not."""
    try:
        return parse_identity(pid_file.read_text())
    except FileNotFoundError:
        return None


def running(pid_file: Path) -> int | None:
    """The pid of the process that the pid file speaks of, if it is alive."""
    who = identity(pid_file)
    return who.pid if who and who.alive else None


def spawn(argv: Sequence[str], pid_file: Path, log: Path) -> None:
    """Start a detached process, leader of a session of its own, whose output goes to the log file."""
    pid_file.unlink(missing_ok=True)
    with log.open("ab") as output:
        # setsid forks and ends, so the process is init's child, and no zombie of ours when it ends.
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", _LAUNCH, str(pid_file), *argv],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def stop(pid_file: Path, grace: float = 5) -> None:
    """End the process and what is left of its process group, then remove the pid file."""
    who = identity(pid_file)
    if who is not None and who.boot == boot_id():
        if who.alive:
            _signal(who.pid, signal.SIGTERM)
            wait_until(lambda: not who.alive, grace)
        leader = stat_of(who.pid)
        # A number stays taken as long as its group has members, so they are ours unless it was given anew.
        if leader is None or leader.started == who.started:
            kill_all(lambda: [s.pid for s in processes() if s.group == who.pid], f"process group {who.pid}")
    pid_file.unlink(missing_ok=True)


def kill_all(find: Callable[[], Sequence[int]], what: str) -> None:
    """Kill whatever `find` names until it names nobody. Raises HomelabError after 5 s."""

    def gone() -> bool:
        pids = find()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return not pids

    if not wait_until(gone, 5):
        raise HomelabError(
            f"Could not end {what}",
            f"Still running: {', '.join(map(str, find()))}",
            "Look at these processes with `ps`, then run the same command again.",
        )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
