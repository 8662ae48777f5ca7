"""Our lines in a container's description, apart from the inventory's text: its origin, and an unfinished clone."""

from __future__ import annotations

import re
from datetime import date

_CREATED = r"Created from (?P<source>\S+) on \d{4}-\d\d-\d\d\."
_BEGUN = (
    r"Unfinished clone: it still has the SSH host key (?P<key>SHA256:[A-Za-z0-9+/]{43}) of its source; "
    r"`homelab up` finishes it\."
)
_CLONED = r"Cloned from the golden container of (?P<golden>\S+), created at \S+\."
_LINE = re.compile(rf"^(?:{_CREATED}|{_CLONED}|{_BEGUN})\s*$", re.MULTILINE)
_UNFINISHED = re.compile(rf"^{_BEGUN}\s*$", re.MULTILINE)


def with_source(description: str, source: str, day: date) -> str:
    """Add the template or backup that the container was created from."""
    return _joined(description, f"Created from {source} on {day.isoformat()}.")


def with_clone_source(description: str, golden: str, baked: str) -> str:
    """Add the golden container that the container was cloned from."""
    return _joined(description, f"Cloned from the golden container of {golden}, created at {baked}.")


def is_clone(description: str) -> bool:
    """Check that the container is a clone, which generates its SSH host keys itself."""
    return any(match["golden"] for match in _LINE.finditer(description))


def with_unfinished_mark(description: str, fingerprint: str) -> str:
    """Add the mark of an unfinished clone, which still has its source's SSH host key, `SHA256:…`."""
    return _joined(
        description,
        f"Unfinished clone: it still has the SSH host key {fingerprint} of its source; `homelab up` finishes it.",
    )


def without_unfinished_mark(description: str) -> str:
    """Remove the mark of an unfinished clone."""
    return _UNFINISHED.sub("", description).strip()


def unfinished(description: str) -> str | None:
    """Return the source's host key if the container is an unfinished clone, or None."""
    match = _UNFINISHED.search(description)
    return match["key"] if match else None


def carry_over(description: str, before: str) -> str:
    """Add our lines of the previous description to a new one."""
    for match in _LINE.finditer(before):
        description = _joined(description, match[0].strip())
    return description


def strip(description: str) -> str:
    """Return a description without our lines."""
    return _LINE.sub("", description).strip()


def source(description: str) -> str | None:
    """Return the volume id that a container was created from, or None if its description has none."""
    return next((match["source"] for match in _LINE.finditer(description) if match["source"]), None)


def _joined(description: str, line: str) -> str:
    # With a blank line, because Proxmox renders the description as Markdown.
    return f"{description}\n\n{line}" if description else line
