"""One change of a lab at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from homelab.errors import HomelabError
from homelab.trust import private_folder


@contextmanager
def only_one(state_dir: Path, what: str) -> Iterator[None]:
    """Hold the lock of `what` on a lab; it ends with the process that holds it. Raises HomelabError if it is held."""
    private_folder(state_dir)
    path = state_dir / f"{what}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HomelabError(f"Another `homelab {what}` is at work on this lab", f"It holds {path}.",
                               "Wait for its end, then run the same command again.") from error
        yield
