"""The line in a container's description that says what it was made from. It is ours, and no part of what is wanted."""

from __future__ import annotations

import re
from datetime import date

_LINE = re.compile(r"^Made from (\S+) on \d{4}-\d\d-\d\d\.\s*$", re.MULTILINE)


def recorded(description: str, source: str, day: date) -> str:
    """A description with the record of what the container was made from."""
    return _joined(description, f"Made from {source} on {day.isoformat()}.")


def kept(description: str, before: str) -> str:
    """A new description with the record, if any, of the one that was there before."""
    match = _LINE.search(before)
    return _joined(description, match[0].strip()) if match else description


def without(description: str) -> str:
    """A description without its record."""
    return _LINE.sub("", description, count=1).strip()


def source(description: str) -> str | None:
    """The volume id that a container was made from, if its description says so."""
    match = _LINE.search(description)
    return match[1] if match else None


def _joined(description: str, line: str) -> str:
    # A blank line, because Proxmox shows the description as Markdown.
    return f"{description}\n\n{line}" if description else line
