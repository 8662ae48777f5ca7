"""The lab's lock: one change of a lab at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from homelab.errors import HomelabError, InputError
from homelab.private_files import private_folder


@contextmanager
def lab_lock(state_dir: Path, verb: str) -> Iterator[None]:
    """Hold the lab's lock, which all changing verbs share; it is released when the process ends. Not reentrant.

    Raises HomelabError, naming the other command, if another one holds it.
    """
    private_folder(state_dir)
    path = state_dir / "lock"
    if path.is_dir():
        raise InputError(f"Cannot lock the lab: {path} is a folder", "", "Remove it.")
    with path.open("a+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "A command that has just started"
            raise HomelabError(
                "Cannot lock the lab: another command is changing it",
                f"{holder} holds {path}.",
                "Wait for its end, then run the same command again.",
            ) from error
        # A refused command reads the holder here: not in backticks, which would make it a command to repeat.
        file.truncate(0)
        file.write(f"Process {os.getpid()} (homelab {verb}), started at {datetime.now():%H:%M:%S},")
        file.flush()
        yield
