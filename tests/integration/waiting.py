"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float = 240) -> Any:
    """Wait for a condition and return its value.

    The limit only ends a wait in vain: on a busy machine, seconds become minutes.
    """
    end, pause = time.monotonic() + seconds, 0.05
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(pause)
        pause = min(2 * pause, 1)
    return found
