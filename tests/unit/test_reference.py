"""The generated reference pages are those of the code."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.scripts import ROOT

GENERATOR: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "generate_reference.py"))


@pytest.mark.parametrize("name", GENERATOR["PAGES"])
def test_page_is_up_to_date(name: str) -> None:
    made = GENERATOR["PAGES"][name]()
    assert (GENERATOR["REFERENCE"] / f"{name}.md").read_text() == made, "run: make reference"


def test_every_verb_with_json_is_described() -> None:
    with_json = {
        name for name, command in GENERATOR["verbs"]().items() if any(each.name == "as_json" for each in command.params)
    }
    assert with_json == set(GENERATOR["RESULTS"])
