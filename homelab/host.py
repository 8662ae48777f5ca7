"""A machine that runs commands: the interface between the steps and SSH."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from homelab.errors import HomelabError

# The errors of a parser that gets text of another format than it expects.
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)
_LANES = 4  # commands of a batch that run in parallel


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one command: its shell text, exit status, and output as bytes."""

    command: str
    status: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def ok(self) -> bool:
        """True if the exit status was 0."""
        return self.status == 0

    @property
    def text(self) -> str:
        """Standard output as text, without surrounding white space."""
        return self.stdout.decode(errors="replace").strip()


class Host(Protocol):
    """A machine on which shell text runs as root. Implementations: SSH, and the local host of the tests."""

    @property
    def name(self) -> str:
        """The container's name, for messages."""

    def run(self, command: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
        """Run shell text and wait for its end, at most `timeout` seconds. A non-zero status is not an error.

        Raises HomelabError when the machine cannot be reached or the deadline passes.
        """

    def batch(self, commands: Sequence[str]) -> list[Result]:
        """Run many short commands in one round trip; return their results in order, without standard error.

        The first command runs alone, the others in parallel.
        """

    def reconnect(self, deadline: float) -> None:
        """Connect again after ConnectionLost, trying for `deadline` seconds: the machine may be rebooting.

        Raises HomelabError when it does not answer, or is another machine.
        """


class ConnectionLost(HomelabError):
    """The connection was lost during a command, which may still be running on the machine."""


class LoginRefused(HomelabError):
    """The machine refused the login with the given key."""


class CommandFailed(HomelabError):
    """A command ended with a non-zero status. The error quotes its last line and the last lines of its output.

    `action` is a phrase such as `write /etc/x`.
    """

    def __init__(self, host: str, result: Result, action: str) -> None:
        output = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()[-12:]
        *before, command = result.command.strip().splitlines() or [""]
        command = ("… " if before else "") + (command if len(command) < 160 else command[:157] + "…")
        end = f"ended with status {result.status}" if result.status >= 0 else "was killed"
        super().__init__(
            f"Cannot {action} on {host}: the command failed",
            "\n".join([f"`{command}` {end}", *(f"  {line}" for line in output)]),
            "Fix the cause and run the same command again: it continues where it stopped.",
        )
        self.result = result


@contextmanager
def expected_format(
    host: str, action: str, resolution: str = "Run `homelab deploy`: the scripts there may be of another version."
) -> Iterator[None]:
    """Raise HomelabError if the block cannot read an answer, as its format is not the expected one."""
    try:
        yield
    except UNREADABLE as error:
        raise HomelabError(
            f"Cannot {action} on {host}: the answer has an unexpected format",
            f"{type(error).__name__}: {error}"[:500],
            resolution,
        ) from error


def argv(*words: str) -> str:
    """Return shell text that runs exactly these words."""
    return shlex.join(words)


def is_open(pattern: str) -> str:
    """Return shell text that succeeds while a process has a file open that matches `pattern`, such as a lock file."""
    return f"find /proc/[0-9]*/fd -lname {shlex.quote(pattern)} 2>/dev/null | grep -q ."


def accepts_connections(address: object, port: int) -> str:
    """Return shell text that succeeds if a port accepts connections."""
    return f"timeout 3 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null"


def check(host: Host, command: str, action: str, *, stdin: bytes = b"", timeout: float = 900) -> Result:
    """Run a command. Raises CommandFailed, in which `action` names it (`write /etc/x`), unless it succeeds."""
    result = host.run(command, stdin=stdin, timeout=timeout)
    if not result.ok:
        raise CommandFailed(host.name, result, action)
    return result


def batch_script(commands: Sequence[str]) -> tuple[str, Callable[[Result], list[Result]]]:
    """Return one shell script that runs all commands, and the parser of its output.

    The first command runs alone; then the others, several in parallel, as most of them wait more than they compute.
    A random mark separates the outputs, so that no output can contain it. Each command runs in a subshell without
    standard input, so that it can neither read the script nor end it.
    """
    mark = secrets.token_hex(16)
    parts = [f"(\n{command}\n) </dev/null 2>/dev/null; printf '\\n{mark} %s\\n' $?" for command in commands]
    # Neighbours go to different lanes: slow commands, such as health probes, are often neighbours.
    lanes = [range(1 + lane, len(commands), _LANES) for lane in range(_LANES)]
    order = [0, *(index for lane in lanes for index in lane)][: len(commands)]

    def parse(result: Result) -> list[Result]:
        chunks = result.stdout.split(f"\n{mark} ".encode())
        if len(chunks) != len(commands) + 1:
            raise HomelabError(
                "Cannot inspect the host: its shell did not run every probe",
                result.stderr.decode(errors="replace").strip()[-300:],
                "Run the same command again.",
            )
        # Each chunk begins with the status line of the command before it.
        bodies = [chunks[0], *(chunk.partition(b"\n")[2] for chunk in chunks[1:])]
        statuses = [int(chunk.partition(b"\n")[0]) for chunk in chunks[1:]]
        found = {
            index: Result(commands[index], status, body)
            for index, status, body in zip(order, statuses, bodies, strict=False)
        }
        return [found[index] for index in range(len(commands))]

    return "\n".join([*parts[:1], _in_parallel(["\n".join(parts[i] for i in lane) for lane in lanes])]) + "\n", parse


def _in_parallel(lanes: Sequence[str]) -> str:
    """Return shell text that runs all lanes in parallel and prints their outputs one after another.

    The lanes are a pipeline: each prints its own output, then copies the next lane's from its standard input. The pipes
    buffer the outputs, so no temporary files are needed.
    """
    first, *others = [
        f"{{ {lane}\n{forward}\n}}" for lane, forward in zip(lanes, [*["cat"] * (len(lanes) - 1), ":"], strict=True)
    ]
    return " | ".join([*reversed(others), first])
