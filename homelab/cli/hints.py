"""Completion of the commands in messages: a hint has the inventory and the scope of the typed command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A command in a message is in backticks, or alone on an indented line.
# `lab`, `schema` and `trust code` use no inventory.
_COMMAND = re.compile(r"(?P<before>`|\n  )homelab (?P<verb>(?!lab\b|schema\b|trust code\b)[a-z]+)(?P<bare>`)?")


@dataclass
class Typed:
    """The parts of the typed command that a hint repeats."""

    selection: list[str] = field(default_factory=list)  # the global options that select the inventory
    verb: str = ""
    limit: Sequence[str] = ()  # the containers of --limit

    def clear(self) -> None:
        """Begin a command line."""
        self.selection, self.verb, self.limit = [], "", ()

    def select(self, *, inventory: Path | None, overlays: Sequence[Path], lab: bool) -> None:
        """Add the global options of one position."""
        self.selection += ["-i", str(inventory)] if inventory else []
        self.selection += [word for overlay in overlays for word in ("--overlay", str(overlay))]
        if lab and "--lab" not in self.selection:
            self.selection.append("--lab")

    def insertions(self, text: str) -> list[tuple[int, str]]:
        """Return the words missing in the commands of a text, each with its position, in order."""
        found = []
        for match in _COMMAND.finditer(text):
            if self.selection:
                found.append((match.start("verb"), f"{shlex.join(self.selection)} "))
            if match["bare"] and match["verb"] == self.verb:
                found.append((match.end("verb"), "".join(f" --limit {shlex.quote(name)}" for name in self.limit)))
        return found

    def complete(self, text: str) -> str:
        """Return a text with complete commands: with the typed selection and, for the same verb, its --limit."""
        for position, words in reversed(self.insertions(text)):
            text = text[:position] + words + text[position:]
        return text


typed = Typed()
