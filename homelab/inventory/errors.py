"""Problems of an inventory: collected one by one, raised together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from homelab.errors import InputError


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        name = os.path.relpath(self.file)
        return f"{self.file if name.startswith('../') else name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem: its place, the dotted path of the value, the cause and the allowed values."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.text}" if self.path else f"{self.place}: {self.text}"


class Problems:
    """The problems found so far."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, place: Place, keys: Iterable[str | int], text: str) -> None:
        """Record a problem."""
        self.found.append(Problem(place, dotted(keys), text))

    def raise_all(self, path: Path) -> NoReturn:
        """Raise one InputError that lists all problems in the order of the lines."""
        count = f"{len(self.found)} problems" if len(self.found) > 1 else "1 problem"
        # The inventory's own lines first, then those of the overlays.
        ordered = sorted(self.found, key=lambda problem: (problem.place.file != path, problem.place))
        raise InputError(
            f"Cannot load {path.name}: {count}",
            "\n".join(f"  {problem}" for problem in ordered),
            "Nothing has been changed. Correct these lines and run the same command again.",
        )


def dotted(keys: Iterable[str | int]) -> str:
    """Render a path: `pipeline.cities[2].name`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar known word, or else at all of them."""
    words = list(known)
    close = get_close_matches(word, words, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known are {', '.join(words)}"
