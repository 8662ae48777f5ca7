"""Long texts for people, shortened around the place where they differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from itertools import groupby

_CONTEXT = 16  # characters that are shown before a difference
LINE = 160  # characters of a line of a diff
# A secret in a settings file, such as one added by hand.
_SECRET = re.compile(r"^(\s*\w*(?:PASSWORD|SECRET|TOKEN|API_KEY|FERNET_KEY|SQL_ALCHEMY_CONN)\w*\s*=).*", re.I | re.M)


def shorten(found: str, wanted: str, width: int) -> tuple[str, str]:
    """Return two texts with at most about `width` characters each, from shortly before their first difference."""
    start = max(_common(found, wanted) - _CONTEXT, 0)
    if max(len(found), len(wanted)) <= width:
        return found, wanted
    same = _common(found[start:][::-1], wanted[start:][::-1])
    return _cut(found, start, same, width), _cut(wanted, start, same, width)


def _common(first: str, second: str) -> int:
    """Return the length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


def _cut(text: str, start: int, same: int, width: int) -> str:
    """Return the part of a text from `start`, without most of its last `same` characters."""
    end = min(len(text) - max(same - _CONTEXT, 0), start + width)
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def file_diff(path: str, found: bytes, wanted: bytes) -> str:
    """Return a unified diff; long lines are shortened around their difference, values of secrets are redacted."""
    old, new = (_SECRET.sub(r"\1***", text.decode(errors="replace")).splitlines() for text in (found, wanted))
    lines = difflib.unified_diff(old, new, f"a{path}", f"b{path}", lineterm="")
    return "".join(f"{line}\n" for line in _shortened(list(lines)))


def _shortened(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a diff; the n-th removed line of a block belongs to its n-th added one."""
    yield from lines[:2]
    for changed, block in groupby(lines[2:], lambda line: line[:1] in "+-"):
        part = list(block)
        removed, added = ([line for line in part if line[:1] == sign] for sign in "-+")
        if not changed or len(removed) != len(added):
            yield from (line if len(line) <= LINE else f"{line[:LINE]}…" for line in part)
            continue
        pairs = [shorten(old[1:], new[1:], LINE) for old, new in zip(removed, added, strict=True)]
        yield from (f"-{old}" for old, _ in pairs)
        yield from (f"+{new}" for _, new in pairs)
