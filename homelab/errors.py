"""Errors for people: the cause, the details, and the command that helps."""

from __future__ import annotations

# The exit codes of the command line.
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class HomelabError(Exception):
    """An error in three parts: `brief` (`Cannot VERB THING: cause`), `details`, and `resolution`, the way out.

    `exit_code` is the command line's exit code for it.
    """

    exit_code = FAILED

    def __init__(self, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class InputError(HomelabError):
    """Input that cannot be used; nothing was touched."""

    exit_code = BAD_INPUT


class Interrupted(HomelabError):
    """Ctrl-C during the work; the details name the work that continues elsewhere."""

    exit_code = INTERRUPTED
