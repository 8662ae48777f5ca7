"""One change of a lab at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from homelab.errors import HomelabError
from homelab.private_files import private_folder


@contextmanager
def lab_lock(state_dir: Path, verb: str) -> Iterator[None]:
    """Hold the lab's lock, the same for all verbs that change something; it ends with the process that holds it.

    Raises HomelabError if another command holds it, and names that one. A verb that holds it cannot take it again.
    """
    private_folder(state_dir)
    path = state_dir / "lock"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "One that has just begun"
            raise HomelabError(
                "Another command is changing this lab",
                f"{holder} holds {path}.",
                "Wait for its end, then run the same command again.",
            ) from error
        # Whoever is turned away reads here whom to wait for.
        file.truncate(0)
        file.write(f"`homelab {verb}`, process {os.getpid()}, begun at {datetime.now():%H:%M:%S},")
        file.flush()
        yield
