"""Insert entries into the text of inventory.yaml; comments, blank lines and quotes around them are kept."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from homelab.errors import HomelabError, InputError

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off"})
_INDENT = 2


def entry(name: str, values: Mapping[str, Any], indent: int = _INDENT) -> list[str]:
    """Return the lines of a container's entry; `indent` is that of its name."""
    return [f"{' ' * indent}{name}:", *_lines(values, indent + _INDENT)]


def _lines(values: Mapping[str, Any], indent: int) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and key == "mounts":
            yield f"{' ' * indent}{key}:"
            yield from _lines(value, indent + _INDENT)
        else:
            yield f"{' ' * indent}{_scalar(key)}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Mapping():
            return "{" + ", ".join(f"{key}: {_scalar(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_scalar, value)) + "]"
        case str() if not _PLAIN.fullmatch(value) or value.lower() in _WORDS:
            return json.dumps(value, ensure_ascii=False)
    return str(value)


def insert_containers(text: str, path: Path, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the inventory's text with these entries at the end of `containers:`.

    Raises InputError if that mapping does not have a line for each container.
    """
    containers = _containers(text, path)
    indent = containers.value[0][0].start_mark.column
    lines = text.split("\n")
    last = _last_line(lines, containers, indent)
    # As between the existing entries: a blank line, or none.
    space = len(containers.value) > 1 and not lines[containers.value[-1][0].start_mark.line - 1].strip()
    new = [line for name, values in entries.items() for line in ([""] if space else []) + entry(name, values, indent)]
    end = "\r" if "\r\n" in text else ""
    return "\n".join([*lines[: last + 1], *(line + end for line in new), *lines[last + 1 :]])


def _containers(text: str, path: Path) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    node = next((value for key, value in pairs if key.value == "containers"), None)
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise InputError(
            f"Cannot add a container to {path.name}: no line for each container",
            "`containers:` of this file must be a mapping with a line for each container.",
            "Write it as in the commented example of `homelab init`; then run the same command again.",
        )
    return node


def _last_line(lines: Sequence[str], containers: yaml.MappingNode, indent: int) -> int:
    """Return the last line of the last container and its comments, counted from 0."""
    last = _end(containers)
    while not lines[last].strip():
        last -= 1
    for number in range(last + 1, len(lines)):
        stripped = lines[number].strip()
        if stripped and (not stripped.startswith("#") or len(lines[number]) - len(lines[number].lstrip()) <= indent):
            break
        if stripped:
            last = number
    return last


def _end(node: yaml.Node) -> int:
    """Return the last line of a value. The end mark of a block mapping is at the beginning of the next value."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return max(map(_end, last)) if isinstance(last, tuple) else _end(last)
    # A block of text ends at the beginning of the next line, other values within their last line.
    start, end = node.start_mark, node.end_mark
    return int(end.line) - (1 if end.column == 0 and end.line > start.line else 0)


def replace_text(path: Path, before: str, after: str) -> None:
    """Replace the text of a file atomically; its mode is kept, and a link stays a link.

    Raises HomelabError if the file has another text than `before`, or cannot be written.
    """
    real = path.resolve()
    try:
        if _text(real) != before:
            raise HomelabError(
                f"Cannot write {path.name}: it was changed in the meantime",
                "Nothing has been written.",
                "Run the same command again.",
            )
        handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                file.write(after)
                file.flush()
                os.fchmod(file.fileno(), stat.S_IMODE(real.stat().st_mode))
                os.fsync(file.fileno())
            os.replace(name, real)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise HomelabError(
            f"Cannot write {path.name}: {error.strerror}",
            f"{real}. No container has been changed.",
            "Remove the cause and run the same command again.",
        ) from error


def read_text(path: Path) -> str:
    """Return the inventory's text with its own line ends. Raises InputError."""
    try:
        return _text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(
            f"Cannot read {path.name}: {reason}", f"{path}.", "Remove the cause and run the same command again."
        ) from error


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()
