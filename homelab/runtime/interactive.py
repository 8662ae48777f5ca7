"""A program that gets the terminal, and Ctrl-C with it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence

from homelab.errors import HomelabError


def run_interactive(words: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, bool]:
    """Run it to its end: its exit status, and whether Ctrl-C came meanwhile, which is for it alone.

    Raises HomelabError when OpenSSH's client is what is run, and is not installed.
    """
    interrupts: list[int] = []
    # A handler, as the program would inherit that the signal is ignored.
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        return subprocess.call(words, env=environment), bool(interrupts)
    except FileNotFoundError as error:
        if words[0] != "ssh":
            raise
        raise HomelabError(
            "ssh is not installed",
            "This command hands over to OpenSSH's client.",
            "Install it: apt install openssh-client",
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)
