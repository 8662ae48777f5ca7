"""Shortened texts show their difference, whatever its place."""

from __future__ import annotations

import json

import pytest

from homelab.model import Difference
from homelab.shortening import LINE, file_diff, shorten


@pytest.mark.parametrize(
    ("found", "wanted", "shown"),
    [
        ("a", "b", ("a", "b")),
        ("x" * 99 + "a", "x" * 99 + "b", ("…" + "x" * 16 + "a", "…" + "x" * 16 + "b")),
        ("a" + "x" * 99, "b" + "x" * 99, ("a" + "x" * 16 + "…", "b" + "x" * 16 + "…")),
        ("x" * 99, "x" * 99 + "new", ("…" + "x" * 16, "…" + "x" * 16 + "new")),
        ("", "y" * 99, ("", "y" * 60 + "…")),
        ("x" * 90 + "1" + "z" * 90, "x" * 90 + "2" + "z" * 90, ("…" + "x" * 16 + "1" + "z" * 16 + "…",) * 2),
    ],
)
def test_long_texts_are_shortened_around_their_difference(found: str, wanted: str, shown: tuple[str, str]) -> None:
    first, second = shorten(found, wanted, 60)
    assert (first, second.replace("2", "1")) == shown
    assert first != second


def test_difference_in_the_second_line_of_a_description_is_visible() -> None:
    text = "postgres-data of the homelab `home`, described in folder/inventory.yaml.\n\nMake changes there"
    assert str(Difference("description", text + ".", text + " by hand.")) == (
        "description: …ke changes there by hand. → …ke changes there."
    )


def test_diff_shortens_a_long_line_around_the_added_city() -> None:
    before = [{"name": f"City {number},US"} for number in range(500)]
    after = [*before[:250], {"name": "Berlin,DE"}, *before[250:]]
    old, new = (f"A=1\nWEATHER_CITIES='{json.dumps(cities)}'\n".encode() for cities in (before, after))
    lines = file_diff("/x", old, new).splitlines()
    (added,) = [line for line in lines[2:] if line.startswith("+")]
    assert "Berlin,DE" in added
    assert max(map(len, lines)) <= LINE + 4


def test_values_of_secrets_are_redacted_in_a_diff() -> None:
    old = b"PGPASSWORD='hunter2'\nOPENWEATHER_API_KEY=hunter2\nA=1\nAIRFLOW__API__SECRET_KEY=hunter2\n"
    shown = file_diff("/x", old, b"A=2\n")
    assert "hunter2" not in shown
    assert "-PGPASSWORD=***" in shown
    assert "+A=2" in shown
