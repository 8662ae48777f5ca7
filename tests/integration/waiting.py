"""Waiting for a condition."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 240, details: Callable[[], str] = str) -> Any:
    """Wait for a condition and return its value.

    The limit only ends a wait in vain, which `details` explains: on a busy machine, seconds become minutes.
    """
    end, pause = time.monotonic() + seconds, 0.05
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s {details()}"
        time.sleep(pause)
        pause = min(2 * pause, 1)
    return found


def until_started(
    process: subprocess.Popen[bytes],
    probe: Callable[[], object],
    *,
    log: Path = Path("/dev/null"),
    seconds: float = 120,
    errors: tuple[type[Exception], ...] = (OSError,),
) -> None:
    """Wait until a probe of a server raises none of `errors`; fail with the end of its log, at once if it ended."""

    def end_of_log() -> str:
        return log.read_text()[-2000:]

    def started() -> bool:
        assert process.poll() is None, f"it ended with {process.returncode}: {end_of_log()}"
        try:
            probe()
        except errors:
            return False
        return True

    until(started, seconds, end_of_log)
