"""Random damage to JSON documents and lines, for tests that nothing odd stops the rest."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HUGE = int("1" + "0" * 400)
VALUES: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "3.4",
    "\0",
    "\ud800",
    "\x1b[2J",
    "a\tb\nc\\d",
    "é" * 300,
    0,
    -1,
    1e308,
    float("inf"),
    float("nan"),
    HUGE,
    -HUGE,
    2**63,
    1e-400,
    [],
    [None],
    [[[]]],
    {},
    {"a\0b": "x"},
    {"": {"": None}},
)
KEYS = ("a\0b", "\ud800", "gust", "dt_txt", "x" * 300, "data", "city", "list", "units")


def mutate(chance: random.Random, document: Any, times: int = 1) -> Any:
    """Return a copy in which some values are replaced, removed or added."""
    document = copy.deepcopy(document)
    for _ in range(times):
        places = list(_places(document))
        parent, key = chance.choice(places)
        action = chance.random()
        if action < 0.7:
            parent[key] = copy.deepcopy(chance.choice(VALUES))
        elif action < 0.85:
            del parent[key]
        elif isinstance(parent, dict):
            parent[chance.choice(KEYS)] = copy.deepcopy(chance.choice(VALUES))
    return document


def _places(document: Any) -> Any:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(items):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def dumped(document: Any) -> str:
    """Return the JSON text, with NaN, infinities and lone surrogates as escapes."""
    return json.dumps(document)


def damage(chance: random.Random, text: bytes) -> bytes:
    """Return a text of which bytes are removed, replaced or inserted."""
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(text) + 1)
        piece = chance.choice((b"", b"\t", b"\0", b"\xff", b"\\", b'"', b"{", b"9" * 30, b"\r", chance.randbytes(5)))
        text = text[:at] + piece + text[at + chance.randint(0, 4) :]
    return text
