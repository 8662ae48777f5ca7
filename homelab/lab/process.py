"""Detached processes, identified by pid, start time and boot, so that a recycled pid is never mistaken for ours."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from homelab.errors import HomelabError

# The child writes its own pid file before it execs the program, which keeps pid and start time. So a running program
# always has a pid file, even if the parent is killed.
_LAUNCH = """
read -r boot </proc/sys/kernel/random/boot_id
read -r stat </proc/self/stat
printf '%s %s\\n' "$boot" "$stat" >"$0.new" && mv "$0.new" "$0" && exec "$@"
"""


def boot_id() -> str:
    """Return the kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Stat:
    """The used fields of /proc/<pid>/stat; `started` is in clock ticks since boot."""

    pid: int
    state: str
    group: int
    started: int


def parse_stat(text: str) -> Stat:
    """Parse /proc/<pid>/stat; the process name in brackets may itself contain brackets."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Stat(int(head.split(" ", 1)[0]), fields[0], int(fields[2]), int(fields[19]))


def stat_of(pid: int) -> Stat | None:
    """Return the live process with that pid; None if there is none or only a zombie."""
    try:
        stat = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if stat.state in "ZX" else stat


def processes() -> Iterator[Stat]:
    """Yield every live process of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := stat_of(int(entry.name))):
            yield stat


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that we started, as recorded in its pid file."""

    boot: str
    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this process still runs, and not another one with the same pid."""
        stat = stat_of(self.pid)
        return stat is not None and stat.started == self.started and self.boot == boot_id()


def parse_identity(text: str) -> Identity | None:
    """Parse the content of a pid file; None if it is invalid."""
    boot, _, stat = text.strip().partition(" ")
    try:
        parsed = parse_stat(stat)
    except (ValueError, IndexError):
        return None
    return Identity(boot, parsed.pid, parsed.started)


def identity(pid_file: Path) -> Identity | None:
    """Return the process that a pid file records, alive or not; None if there is no valid file."""
    try:
        return parse_identity(pid_file.read_text())
    except FileNotFoundError:
        return None


def running(pid_file: Path) -> int | None:
    """Return the pid of the recorded process if it is alive."""
    recorded = identity(pid_file)
    return recorded.pid if recorded and recorded.alive else None


def spawn(argv: Sequence[str], pid_file: Path, log: Path) -> None:
    """Start a detached process in a session of its own, with its output appended to the log file."""
    pid_file.unlink(missing_ok=True)
    with log.open("ab") as output:
        # setsid forks and ends, so the process becomes init's child and leaves no zombie here.
        subprocess.run(
            ["setsid", "--fork", "sh", "-c", _LAUNCH, str(pid_file), *argv],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def stop(pid_file: Path, grace: float = 5) -> None:
    """End the process and the rest of its process group, then remove the pid file. Raises HomelabError."""
    ours = identity(pid_file)
    if ours is not None and ours.boot == boot_id():
        if ours.alive:
            _signal(ours.pid, signal.SIGTERM)
            wait_until(lambda: not ours.alive, grace)
        leader = stat_of(ours.pid)
        # A pid is not reused while its process group has members, so the members are ours unless a new process has it.
        if leader is None or leader.started == ours.started:
            kill_all(lambda: [s.pid for s in processes() if s.group == ours.pid], f"process group {ours.pid}")
    pid_file.unlink(missing_ok=True)


def kill_all(find: Callable[[], Sequence[int]], description: str) -> None:
    """Kill the pids that `find` returns until it returns none. Raises HomelabError after 5 s."""

    def none_left() -> bool:
        pids = find()
        for pid in pids:
            _signal(pid, signal.SIGKILL)
        return not pids

    if not wait_until(none_left, 5):
        raise HomelabError(
            f"Cannot end {description}: still running after 5 s",
            f"Pids: {', '.join(map(str, find()))}",
            "Inspect these processes with `ps`, then run the same command again.",
        )


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for a condition and return whether it became true within `seconds`."""
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
