"""Standard input, which may be closed, as a shell does with `<&-`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from homelab.errors import InputError


def is_terminal() -> bool:
    """Return True if a person can answer on standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


def lines() -> Iterator[str]:
    """Yield the lines of standard input; none if it is closed. Raises InputError for text that is not UTF-8."""
    try:
        for line in sys.stdin or ():
            line.encode()  # in the locale C, Python passes on other bytes as surrogates
            yield line
    except UnicodeError:
        raise InputError("Cannot read standard input: it is not UTF-8 text", "", "Pipe in UTF-8 text.") from None
