"""Confirmation before a disruptive action."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

import typer

from homelab.cli import standard_input
from homelab.cli.results import echo
from homelab.errors import InputError


def confirm(question: str, yes: bool) -> bool:
    """Ask for confirmation; return True without asking if `yes`. Raises InputError without a terminal."""
    if yes:
        return True
    if not standard_input.is_terminal():
        raise InputError(
            "Cannot ask for confirmation: standard input is not a terminal",
            f"The question was: {question}",
            f"Confirm with --yes: {' '.join(_repeated(sys.argv[1:]))}",
        )
    return typer.confirm(question, err=True)


def confirm_lines(question: str, yes: bool) -> Callable[[Sequence[str]], bool]:
    """Return a function that shows changes, line by line, and asks as `confirm` does."""

    def ask(lines: Sequence[str]) -> bool:
        for line in lines:
            echo(f"  {line}", err=True)
        return confirm(question, yes)

    return ask


def _repeated(arguments: Sequence[str]) -> Iterable[str]:
    """Yield the command as it was typed, plus --yes."""
    import shlex

    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return ["homelab", *map(shlex.quote, words[:end]), "--yes", *map(shlex.quote, words[end:])]
