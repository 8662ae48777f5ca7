"""The generated reference pages are those of the code."""

from __future__ import annotations

import pytest

from docs.generate_reference import PAGES, REFERENCE
from docs.reference_cli import verbs
from docs.reference_json import RESULTS


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    assert (REFERENCE / f"{name}.md").read_text() == PAGES[name](), "run: make reference"


def test_every_verb_with_json_is_described() -> None:
    with_json = {name for name, command in verbs().items() if any(each.name == "as_json" for each in command.params)}
    assert with_json == set(RESULTS)
