"""YAML files as plain data that remembers the file and line of every value, and overlays merged over them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from homelab.inventory.errors import Place, Problems

Keys = tuple[str | int, ...]
_DEEPEST = 20


@dataclass(slots=True)
class Document:
    """Plain data, and where each of its values stands."""

    data: Any
    places: dict[Keys, Place] = field(default_factory=dict)
    broken: bool = False  # nothing in it can be relied upon

    def place(self, keys: Keys) -> Place:
        """Where a value stands, or, if it is missing, where the nearest thing around it stands."""
        while keys not in self.places and keys:
            keys = keys[:-1]
        return self.places[keys]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars: `.67` is text and not a fraction, `no` is text and not false."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,18}", list("-+0123456789")),
    ("float", r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?", list("-+0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))


def parse(path: Path, text: str, faults: Problems) -> Document:
    """Read one file; what cannot be read is recorded among the faults."""
    document = Document(None, {(): Place(path, 1)})
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            document.data = _value(loader, root, (), document, faults, path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        faults.add(Place(path, mark.line + 1 if mark else 1), (), f"not valid YAML: {_explain(error)}")
        document.broken = True
    except yaml.YAMLError as error:
        faults.add(Place(path, 1), (), f"not valid YAML: {' '.join(str(error).split())}")
        document.broken = True
    except RecursionError:
        faults.add(Place(path, 1), (), "nested too deeply")
        document.broken = True
    return document


def _explain(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem)
    if "'@'" in problem or "'`'" in problem:
        return f"{problem}; put the value in quotes"
    return f"{problem} ({error.context})" if error.context else problem


def _value(loader: _Loader, node: yaml.Node, keys: Keys, document: Document, faults: Problems, path: Path) -> Any:
    document.places.setdefault(keys, Place(path, node.start_mark.line + 1))
    if document.broken:
        return None
    if len(keys) > _DEEPEST:
        faults.add(document.places[keys], keys[:2], "nested too deeply, or an alias that contains itself")
        document.broken = True
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(loader, node, keys, document, faults, path)
    if isinstance(node, yaml.SequenceNode):
        return [_value(loader, item, (*keys, index), document, faults, path) for index, item in enumerate(node.value)]
    return loader.construct_object(node)


def _mapping(
    loader: _Loader, node: yaml.MappingNode, keys: Keys, document: Document, faults: Problems, path: Path
) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = Place(path, key_node.start_mark.line + 1)
        key = key_node.value
        if not isinstance(key, str):
            faults.add(place, keys, "a key must be a word")
        elif key in result:
            first = document.places[(*keys, key)]
            faults.add(place, (*keys, key), f"written twice; the first one is in line {first.line}")
        else:
            document.places[(*keys, key)] = place
            result[key] = _value(loader, value_node, (*keys, key), document, faults, path)
    return result


def merge(base: Document, overlay: Document) -> None:
    """Lay a document over another: mappings merge, everything else replaces, null deletes."""
    base.data = _merged(base, overlay, (), base.data, overlay.data)


def _merged(base: Document, overlay: Document, keys: Keys, below: Any, above: Any) -> Any:
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
        else:
            base.places.update(_beneath(overlay, inner))
            result[key] = value
    return result


def _beneath(document: Document, keys: Keys) -> Iterator[tuple[Keys, Place]]:
    return ((k, place) for k, place in document.places.items() if k[: len(keys)] == keys)


def _forget(document: Document, keys: Keys) -> None:
    for key, _ in list(_beneath(document, keys)):
        if key:
            del document.places[key]
