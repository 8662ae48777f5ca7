"""A machine that runs commands: the one seam between what we want and where it happens."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from homelab.errors import HomelabError

_LANES = 4  # how many commands of a batch run at a time


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one command: its shell text, exit status, and what it printed, as bytes."""

    command: str
    status: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the exit status was 0."""
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode(errors="replace").strip()


class Host(Protocol):
    """Runs shell text as root on one machine. Implementations: SSH, and the tests' local one."""

    @property
    def name(self) -> str:
        """The container's name, for messages."""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """Run shell text and wait for it, at most `timeout` seconds. A non-zero status is not an error.

        Raises HomelabError when the machine cannot be reached or the deadline passes.
        """

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """Run many short commands in one round trip; results in the same order, without standard error.

        The first runs alone, the others side by side.
        """

    def reconnect(self, deadline: float) -> None:
        """Reach the machine anew after ConnectionLost, for `deadline` seconds in all: it may be rebooting.

        Raises HomelabError when it does not answer, or is not the same machine.
        """


class ConnectionLost(HomelabError):
    """The line broke in the middle of a command, which may go on over there."""


class CommandFailed(HomelabError):
    """A command ended with a non-zero status: the error quotes it, its last line, and the last lines it printed."""

    def __init__(self, host: str, result: Result, what: str, resolution: str = "") -> None:
        output = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-12:]
        *before, command = result.command.strip().splitlines() or [""]
        command = ("… " if before else "") + (command if len(command) < 160 else command[:157] + "…")
        end = f"ended with status {result.status}" if result.status >= 0 else "was killed"
        super().__init__(
            f"{host}: {what} failed",
            "\n".join([f"`{command}` {end}", *(f"  {line}" for line in output)]),
            resolution or "Mend the cause and run the same command again: it goes on where it stopped.",
        )
        self.result = result


def argv(*words: str) -> str:
    """Shell text that runs exactly these words."""
    return shlex.join(words)


def is_open(pattern: str) -> str:
    """Shell text that succeeds while a process has a file open whose path is like that, as one has that locks it."""
    return f"find /proc/[0-9]*/fd -lname {shlex.quote(pattern)} 2>/dev/null | grep -q ."


def check(host: Host, command: str, what: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
    """Run a command that has to succeed; `what` names it in the error. Raises CommandFailed."""
    result = host.run(command, stdin=stdin, timeout=timeout)
    if not result.ok:
        raise CommandFailed(host.name, result, what)
    return result


def batch_script(commands: Sequence[str]) -> tuple[str, Callable[[Result], list[Result]]]:
    """One shell script that runs all the commands, and the parser of its output.

    The first command runs alone; then the others, several at a time, as most of them wait more than they work.
    A random mark stands between the answers, so no command's output can be taken for the end of it. Each
    command runs in a subshell without standard input, so none can eat the script or end it.
    """
    mark = secrets.token_hex(16)
    parts = [f"(\n{command}\n) </dev/null 2>/dev/null; printf '\\n{mark} %s\\n' $?" for command in commands]
    # In order, so that what stands together and is likely to be slow, as the last questions are, is spread.
    lanes = [range(1 + lane, len(commands), _LANES) for lane in range(_LANES)]
    order = [0, *(index for lane in lanes for index in lane)][: len(commands)]

    def parse(result: Result) -> list[Result]:
        chunks = result.stdout.split(f"\n{mark} ".encode())
        if len(chunks) != len(commands) + 1:
            raise HomelabError(
                "The remote shell did not answer every probe", result.stderr.decode(errors="replace").strip()[-300:]
            )
        # Each chunk begins with the status line of the command before it.
        bodies = [chunks[0], *(chunk.partition(b"\n")[2] for chunk in chunks[1:])]
        statuses = [int(chunk.partition(b"\n")[0]) for chunk in chunks[1:]]
        found = {
            index: Result(commands[index], status, body)
            for index, status, body in zip(order, statuses, bodies, strict=False)
        }
        return [found[index] for index in range(len(commands))]

    return "\n".join([*parts[:1], _side_by_side(["\n".join(parts[i] for i in lane) for lane in lanes])]) + "\n", parse


def _side_by_side(lanes: Sequence[str]) -> str:
    """Shell text that runs all of these at the same time, and prints what they print one after another.

    Each hands on what comes from its standard input once it is through: a pipe needs no file to keep that in.
    """
    first, *others = [
        f"{{ {lane}\n{hand_on}\n}}" for lane, hand_on in zip(lanes, [*["cat"] * (len(lanes) - 1), ":"], strict=True)
    ]
    return " | ".join([*reversed(others), first])
