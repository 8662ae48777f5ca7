"""Errors of queries name the command that helps, here and on this machine alone."""

from __future__ import annotations

import re

import pytest

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.paths import bundled_path
from homelab.pipeline_contract import EXIT
from homelab.runtime.marts import parse_rows

HINT = "`homelab pipeline run` publishes them."


@pytest.mark.parametrize("verb", ["query", "dev query"])
def test_refused_query_names_the_same_command(verb: str) -> None:
    refused = Result("q", EXIT.failed, b"", b"error: Catalog Error: no such table")
    with pytest.raises(HomelabError) as caught:
        parse_rows(refused, "here", verb=verb, publish=HINT, resolution="again")
    assert caught.value.resolution == f'The tables: `homelab {verb} "show all tables"`'


def test_missing_file_names_the_command_that_publishes_it() -> None:
    with pytest.raises(HomelabError, match="Cannot query the marts: there are none") as caught:
        parse_rows(Result("q", EXIT.nothing_published), "here", verb="query", publish=HINT, resolution="again")
    assert caught.value.resolution == HINT


def test_unreadable_answer_has_the_hint_of_the_command() -> None:
    with pytest.raises(HomelabError, match="unexpected format") as caught:
        parse_rows(Result("q", 0, b"nothing"), "here", verb="query", publish=HINT, resolution="again")
    assert caught.value.resolution == "again"


@pytest.mark.parametrize("path", ["homelab/commands/dev.py", "homelab/cli/dev.py", "homelab/dev/local_stack.py"])
def test_hints_of_dev_name_dev_commands_only(path: str) -> None:
    text = (bundled_path("inventory.yaml").parent / path).read_text()
    assert {verb for verb in re.findall(r"`homelab ([a-z]+)", text)} <= {"dev"}
