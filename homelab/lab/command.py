"""Running the programs of this machine: argv lists, captured output, errors for people."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from homelab.errors import HomelabError


class ProgramFailed(HomelabError):
    """A program of this machine ended with a non-zero status or took too long."""


def attempt(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | IO[bytes] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program whose failure is an answer. Raises ProgramFailed when it is missing or takes too long."""
    words = [str(word) for word in argv]
    try:
        # No standard input is an empty one: nothing here may wait for a person.
        given: dict[str, Any] = (
            {"input": stdin or b""} if stdin is None or isinstance(stdin, bytes) else {"stdin": stdin}
        )
        return subprocess.run(words, **given, capture_output=True, timeout=timeout, check=False, env=env)
    except FileNotFoundError as error:
        raise ProgramFailed(f"{words[0]} is not installed", str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(f"{words[0]} did not end within {timeout:g} s", shlex.join(words)) from error


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | IO[bytes] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program that has to succeed and return what it printed. Raises ProgramFailed."""
    done = attempt(argv, stdin=stdin, timeout=timeout, env=env)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-8:])
        raise ProgramFailed(f"`{shlex.join(done.args)}` ended with status {done.returncode}", tail)
    return done.stdout.decode(errors="replace")


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Whether a program ends with status 0."""
    return attempt(argv).returncode == 0
