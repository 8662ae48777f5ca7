"""Interactive programs, which get the terminal and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from homelab.errors import HomelabError


def run_interactive(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, bool]:
    """Run a program to its end; return its exit status, and True if Ctrl-C came, which only the program handles.

    Raises HomelabError if OpenSSH's client is not installed.
    """
    interrupts: list[int] = []
    # A handler instead of SIG_IGN, which the program would inherit.
    before = signal.signal(signal.SIGINT, lambda number, _frame: interrupts.append(number))
    try:
        return subprocess.call(argv, env=environment), bool(interrupts)
    except FileNotFoundError as error:
        if argv[0] != "ssh":
            raise
        raise HomelabError(
            "Cannot run ssh: it is not installed",
            "This command uses OpenSSH's client.",
            "Install it: apt install openssh-client",
        ) from error
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def default_interrupt() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt only, which the block handles, instead of ending the command."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
