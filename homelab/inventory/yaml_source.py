"""YAML files as plain data with the file and line of every value, and overlays merged over them."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from homelab.inventory.errors import Place, Problems

KeyPath = tuple[str | int, ...]
_DEEPEST = 20  # levels of nesting
_MOST_REPEATED = 100_000  # values that aliases may repeat
_FAST_NESTING = 2000  # levels of nesting that are safe with libyaml
_YAML = "tag:yaml.org,2002:"
_MERGE = "<<"  # a key that adds the keys of other mappings
EXISTING = "!existing"  # tag of a mapping in an overlay: skipped if the inventory does not have its key


@dataclass(slots=True)
class Document:
    """Plain data, and the place of each of its values."""

    data: Any
    places: dict[KeyPath, Place] = field(default_factory=dict)
    broken: bool = False  # it cannot be used; the problem is recorded
    conditional: set[KeyPath] = field(default_factory=set)  # mappings with the tag EXISTING

    def place(self, keys: KeyPath) -> Place:
        """Return the place of a value; for a missing one, that of the nearest mapping around it."""
        while keys not in self.places and keys:
            keys = keys[:-1]
        return self.places[keys]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `.67` is text and not a fraction, `no` is text and not false."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same by libyaml, if present: ten times as fast, but with less clear errors."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"{_YAML}{_tag}", re.compile(f"(?:{_pattern})$"), _first)
for _loader in (_Loader, _FastLoader):
    _loader.add_constructor(f"{_YAML}int", lambda _, node: int(node.value))


def parse(path: Path, text: str, problems: Problems) -> Document:
    """Read one file; record a problem if it cannot be read."""
    document = Document(None, {(): Place(path, 1)})
    try:
        loader, root = _compose(text)
        if root is not None:
            document.data = _Builder(loader, document, problems, path, len(text) + _MOST_REPEATED).value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problems.add(Place(path, mark.line + 1 if mark else 1), (), f"not valid YAML: {_explain(error)}")
        document.broken = True
    except yaml.YAMLError as error:
        problems.add(Place(path, 1), (), f"not valid YAML: {' '.join(str(error).split())}")
        document.broken = True
    except RecursionError:
        problems.add(Place(path, 1), (), "nested too deeply")
        document.broken = True
    return document


def _compose(text: str) -> tuple[Any, yaml.Node | None]:
    """Return a loader and the root node, by libyaml if possible. Raises YAMLError."""
    # libyaml would exhaust the stack of the process; a level of nesting takes a bracket, or a column of a line.
    brackets, columns = text.count("[") + text.count("{"), max(map(len, text.splitlines()), default=0)
    if max(brackets, columns) < _FAST_NESTING:
        fast = _FastLoader(text)
        with contextlib.suppress(yaml.YAMLError):
            return fast, fast.get_single_node()
    loader = _Loader(text)
    return loader, loader.get_single_node()


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "'@'" in problem or "'`'" in problem:
        return f"{problem}; put the value in quotes"
    return f"{problem} ({error.context})" if error.context else problem


@dataclass(frozen=True, slots=True)
class _Builder:
    """Converts the nodes of one file to plain data."""

    loader: Any  # a loader of PyYAML
    document: Document
    problems: Problems
    path: Path
    most: int  # values; those of a text without aliases are fewer than its characters
    values: Iterator[int] = field(default_factory=itertools.count)

    def value(self, node: yaml.Node, keys: KeyPath) -> Any:
        """Convert a node and record its place."""
        if self.document.broken or self._is_too_large(keys):
            return None
        self.document.places.setdefault(keys, self._place(node))
        if len(keys) > _DEEPEST:
            self._nested_too_deeply(keys)
            return None
        if isinstance(node, yaml.MappingNode):
            if node.tag == EXISTING:
                self.document.conditional.add(keys)
            return self._mapping(node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*keys, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _scalar(self, node: yaml.Node) -> Any:
        """Convert a scalar. Raises ConstructorError if its tag does not fit, and for infinite numbers."""
        try:
            value = self.loader.construct_object(node)
        except (ValueError, KeyError, AttributeError):  # which PyYAML's constructors raise
            value = node
        if isinstance(value, str | int | None) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise yaml.constructor.ConstructorError(
            None, None, f"this value cannot be read as {node.tag.replace(_YAML, '!!')}", node.start_mark
        )

    def _mapping(self, node: yaml.MappingNode, keys: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in self._pairs(node, keys, 0):
            key = key_node.value
            self.document.places[(*keys, key)] = self._place(key_node)
            result[key] = self.value(value_node, (*keys, key))
        return result

    def _pairs(self, node: yaml.MappingNode, keys: KeyPath, depth: int) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
        """Return the keys and values, those of merge keys included: explicit keys win, then earlier mappings."""
        if self.document.broken or self._is_too_large(keys):
            return []
        if len(keys) + depth > _DEEPEST:
            self._nested_too_deeply(keys)
            return []
        found: dict[str, tuple[yaml.ScalarNode, yaml.Node]] = {}
        merged: yaml.Node | None = None
        for key_node, value_node in node.value:
            key, place = key_node.value, self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.add(place, keys, "a key must be a word")
            elif first_node := merged if _is_merge(key_node) else found.get(key, (None,))[0]:
                first = self._place(first_node)
                self.problems.add(place, (*keys, key), f"written twice; the first one is in line {first.line}")
            elif _is_merge(key_node):
                merged = value_node
            else:
                found[key] = (key_node, value_node)
        for source in self._merge_sources(merged, keys):
            for key_node, value_node in self._pairs(source, keys, depth + 1):
                found.setdefault(key_node.value, (key_node, value_node))
        return list(found.values())

    def _merge_sources(self, node: yaml.Node | None, keys: KeyPath) -> list[yaml.MappingNode]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node] if node else []
        sources = [each for each in nodes if isinstance(each, yaml.MappingNode)]
        if node and len(sources) < len(nodes):
            self.problems.add(
                self._place(node),
                (*keys, _MERGE),
                "must be an alias of a mapping, or a list of them, as in `<<: *name` or `<<: [*one, *two]`",
            )
        return sources

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.path, node.start_mark.line + 1)

    def _is_too_large(self, keys: KeyPath) -> bool:
        """Count a value; record a problem if aliases repeat too many."""
        too_large = next(self.values) > self.most
        if too_large:
            self._break(keys, f"aliases repeat more than {_MOST_REPEATED:,} values")
        return too_large

    def _nested_too_deeply(self, keys: KeyPath) -> None:
        self._break(keys, "nested too deeply, or an alias that contains itself")

    def _break(self, keys: KeyPath, text: str) -> None:
        self.problems.add(self.document.place(keys[:2]), keys[:2], text)
        self.document.broken = True


def _is_merge(key: yaml.ScalarNode) -> bool:
    return key.value == _MERGE and not key.style


def merge(base: Document, overlay: Document) -> None:
    """Put an overlay over a document: mappings merge, other values replace, null deletes.

    A mapping with the tag `!existing` changes a key of the document, and adds none.
    """
    base.data = _merged(base, overlay, (), base.data, overlay.data)


def _merged(base: Document, overlay: Document, keys: KeyPath, below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        _forget(base, keys)
        base.places.update(_beneath(overlay, keys))
        return above
    result = dict(below)
    for key, value in above.items():
        inner = (*keys, key)
        if value is None:
            result.pop(key, None)
            _forget(base, inner)
        elif key in below:
            result[key] = _merged(base, overlay, inner, below[key], value)
        elif inner not in overlay.conditional:
            base.places.update(_beneath(overlay, inner))
            result[key] = _unconditional(overlay, inner, value)
    return result


def _unconditional(overlay: Document, keys: KeyPath, value: Any) -> Any:
    """Return a new value without the mappings that only change existing keys."""
    if not isinstance(value, dict):
        return value
    inner = {key: (*keys, key) for key in value}
    return {
        key: _unconditional(overlay, inner[key], value[key]) for key in value if inner[key] not in overlay.conditional
    }


def _beneath(document: Document, keys: KeyPath) -> Iterator[tuple[KeyPath, Place]]:
    return ((k, place) for k, place in document.places.items() if k[: len(keys)] == keys)


def _forget(document: Document, keys: KeyPath) -> None:
    for key, _ in list(_beneath(document, keys)):
        if key:
            del document.places[key]
