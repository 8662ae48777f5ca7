"""What went wrong, why, and the command that mends it."""

from __future__ import annotations


class HomelabError(Exception):
    """An error for a person: `brief` says what happened, `details` why, `resolution` what to do.

    `exit_code` is what the command line ends with.
    """

    exit_code = 1

    def __init__(self, brief: str, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return "\n".join(part for part in (self.brief, self.details, self.resolution) if part)


class InputError(HomelabError):
    """The user's input cannot be used; nothing has been touched. Exit code 2."""

    exit_code = 2
