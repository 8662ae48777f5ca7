"""Run programs of this machine from argv lists, capture their output, and raise readable errors."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from homelab.errors import HomelabError


class ProgramFailed(HomelabError):
    """Error for a program that is missing, timed out or ended with a non-zero status."""


def attempt(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | IO[bytes] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program that may fail and return its result. Raises ProgramFailed when it is missing or times out."""
    words = [str(word) for word in argv]
    try:
        # Without standard input, pass an empty one: no program may wait for the keyboard.
        given: dict[str, Any] = (
            {"input": stdin or b""} if stdin is None or isinstance(stdin, bytes) else {"stdin": stdin}
        )
        return subprocess.run(words, **given, capture_output=True, timeout=timeout, check=False, env=env)
    except FileNotFoundError as error:
        raise ProgramFailed(f"Cannot run {words[0]}: it is not installed", str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(f"Cannot run {words[0]}: no result within {timeout:g} s", shlex.join(words)) from error


def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | IO[bytes] | None = None,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program that has to succeed and return its output. Raises ProgramFailed."""
    done = attempt(argv, stdin=stdin, timeout=timeout, env=env)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-8:])
        raise ProgramFailed(f"Cannot run `{shlex.join(done.args)}`: exit status {done.returncode}", tail)
    return done.stdout.decode(errors="replace")


def succeeds(argv: Sequence[str | Path]) -> bool:
    """Run a program and return whether it ends with status 0."""
    return attempt(argv).returncode == 0
