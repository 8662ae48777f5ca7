"""Our lines in a container's description, no part of what is wanted: what it was made from, and if it is unfinished."""

from __future__ import annotations

import re
from datetime import date

_MADE = r"Made from (?P<source>\S+) on \d{4}-\d\d-\d\d\."
_BEGUN = (
    r"Unfinished: it still has the SSH host key (?P<key>SHA256:[A-Za-z0-9+/]{43}) of what it was cloned from; "
    r"`homelab up` goes on\."
)
_CLONED = r"Cloned from the golden container of (?P<golden>\S+), baked at \S+\."
_LINE = re.compile(rf"^(?:{_MADE}|{_CLONED}|{_BEGUN})\s*$", re.MULTILINE)
_UNFINISHED = re.compile(rf"^{_BEGUN}\s*$", re.MULTILINE)


def with_source(description: str, source: str, day: date) -> str:
    """A description with the record of what the container was made from."""
    return _joined(description, f"Made from {source} on {day.isoformat()}.")


def with_clone_source(description: str, golden: str, baked: str) -> str:
    """A description with the record of the golden container that this is a clone of."""
    return _joined(description, f"Cloned from the golden container of {golden}, baked at {baked}.")


def is_clone(description: str) -> bool:
    """Whether it says that the container is a clone, whose SSH host keys were made inside it."""
    return any(match["golden"] for match in _LINE.finditer(description))


def with_unfinished_mark(description: str, fingerprint: str) -> str:
    """A description that says that the container is a clone which still has another one's host key, `SHA256:…`."""
    return _joined(
        description,
        f"Unfinished: it still has the SSH host key {fingerprint} of what it was cloned from; `homelab up` goes on.",
    )


def without_unfinished_mark(description: str) -> str:
    """A description that does not say so any more."""
    return _UNFINISHED.sub("", description).strip()


def unfinished(description: str) -> str | None:
    """The other one's host key, if the container is such a clone."""
    match = _UNFINISHED.search(description)
    return match["key"] if match else None


def carry_over(description: str, before: str) -> str:
    """A new description with our lines, if any, of the one that was there before."""
    for match in _LINE.finditer(before):
        description = _joined(description, match[0].strip())
    return description


def strip(description: str) -> str:
    """A description without our lines."""
    return _LINE.sub("", description).strip()


def source(description: str) -> str | None:
    """The volume id that a container was made from, if its description says so."""
    return next((match["source"] for match in _LINE.finditer(description) if match["source"]), None)


def _joined(description: str, line: str) -> str:
    # A blank line, because Proxmox shows the description as Markdown.
    return f"{description}\n\n{line}" if description else line
