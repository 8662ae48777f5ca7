"""A new entry in inventory.yaml as text: every comment, blank line and quote around it stays as it is."""

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
    """The lines of a container's entry; `indent` is that of its name."""
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
    """The inventory's text with these entries at the end of `containers:`.

    Raises InputError where that mapping is not written with a line for each container.
    """
    containers = _containers(text, path)
    indent = containers.value[0][0].start_mark.column
    lines = text.split("\n")
    last = _last_line(lines, containers, indent)
    # As the others are: with a blank line between two containers, or without.
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
            f"{path.name}: there is no place for a new container",
            "`containers:` is not a mapping with a line for each container in this file.",
            "Write it so, as in the commented example that `homelab init` writes; then run this again.",
        )
    return node


def _last_line(lines: Sequence[str], containers: yaml.MappingNode, indent: int) -> int:
    """The line where the last container ends, counted from 0, with the comments that belong to it."""
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
    """The last line of a value. A mapping's own end would be where the next thing begins."""
    if isinstance(node, yaml.CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return max(map(_end, last)) if isinstance(last, tuple) else _end(last)
    # A block of text ends at the beginning of a line, anything else within its last one.
    start, end = node.start_mark, node.end_mark
    return int(end.line) - (1 if end.column == 0 and end.line > start.line else 0)


def replace_text(path: Path, before: str, after: str) -> None:
    """Put a text in the place of another, atomically and with the file's mode; a link stays one.

    Raises HomelabError if it is not that other one any more, or cannot be written.
    """
    real = path.resolve()
    try:
        if _text(real) != before:
            raise HomelabError(
                f"{path.name} was changed in the meantime", "Nothing has been written.", "Run the same command again."
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
            f"{path.name} cannot be written",
            f"{real}: {error.strerror}.",
            "Mend that and run the same command again; no container has been changed.",
        ) from error


def read_text(path: Path) -> str:
    """The inventory's text, its line ends as they are. Raises InputError."""
    try:
        return _text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read", f"{path}: {error}.", "Mend that and run this again.") from error


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()
