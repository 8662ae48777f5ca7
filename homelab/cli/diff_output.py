"""The differences of marts as text, and as Markdown for a comment on a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from homelab.commands.diff import MartDiff, PipelineDiff

_HEADER = ("mart", "rows", "added", "removed", "changed", "columns")


def text(differences: Sequence[PipelineDiff]) -> str:
    """Return the differences as text, one line a mart and one line a changed column."""
    return "\n".join(line for each in differences for line in _lines(each))


def markdown(differences: Sequence[PipelineDiff]) -> str:
    """Return the differences as Markdown, one table a pipeline."""
    return "\n".join(line for each in differences for line in _section(each))


def _lines(diff: PipelineDiff) -> Iterator[str]:
    commit = diff.commit[:8]
    revision = commit if diff.commit.startswith(diff.revision) else f"{diff.revision} ({commit})"
    yield f"{diff.pipeline}, compared with {revision}: {_summary(diff)}"
    for mart in diff.marts:
        if mart.change in ("added", "removed"):
            yield f"  {mart.name}: {mart.change}, {_rows(mart)} rows"
        elif mart.change == "same":
            yield f"  {mart.name}: the same, {_rows(mart)} rows"
        else:
            counts = f"{mart.added} added, {mart.removed} removed" + (f", {mart.changed} changed" if mart.key else "")
            yield f"  {mart.name}: {_rows(mart)} rows: {counts}"
        yield from (f"    {column}" for column in mart.columns)
    yield from (f"  note: {note}" for note in diff.notes)


def _section(diff: PipelineDiff) -> Iterator[str]:
    yield f"### Marts of {diff.pipeline}, compared with {diff.commit[:8]}"
    yield ""
    if diff.marts:
        yield _row(_HEADER)
        yield _row(["---", *["---:"] * 4, "---"])
    for mart in diff.marts:
        name = _code(mart.name) + ("" if mart.change in ("changed", "same") else f" ({mart.change})")
        changed = str(mart.changed) if mart.key or mart.change != "changed" else "no key"
        columns = "<br>".join(_code(str(column)) for column in mart.columns)
        yield _row([name, _rows(mart), str(mart.added), str(mart.removed), changed, columns])
    yield f"{chr(10) if diff.marts else ''}{_summary(diff)}."
    yield from (f"\nNote: {_code(note)}" for note in diff.notes)
    yield ""


def _summary(diff: PipelineDiff) -> str:
    differing = sum(mart.change != "same" for mart in diff.marts)
    same = len(diff.marts) - differing
    parts = [f"{differing} {_marts(differing)} {'differs' if differing == 1 else 'differ'}"]
    parts += [f"{same} built again without a difference"] if same else []
    return ", ".join([*parts, f"{diff.unmodified} unmodified"])


def _marts(count: int) -> str:
    return "mart" if count == 1 else "marts"


def _rows(mart: MartDiff) -> str:
    if mart.change == "added":
        return str(mart.rows_after)
    if mart.change == "removed" or mart.rows_before == mart.rows_after:
        return str(mart.rows_before)
    return f"{mart.rows_before} → {mart.rows_after}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(name: str) -> str:
    """Return a name as code; without the characters that end a cell, a line or the code."""
    return f"`{re.sub(r'[|`<>&]|[^ -~→]', '?', name)}`"
