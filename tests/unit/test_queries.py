"""Queries of one database share one psql, and each gets its own result."""

from __future__ import annotations

from pathlib import Path

import pytest

from homelab.host import Result
from homelab.steps.queries import Query, merge_queries
from tests.support import LocalHost

# Prints the text of a query instead of its rows, and sets :ERROR as psql does.
PSQL = r"""#!/bin/sh
echo started >>{log}
error=false
while [ $# -gt 0 ]; do
    case "$1 $2" in
        "-c \\echo "*) echo "${{2#?echo }}" | sed "s/:ERROR/$error/" ;;
        "-c die") exit 3 ;;
        "-c bad"*) error=true; echo "ERROR: bad" >&2 ;;
        "-c "*) error=false; printf '%s\n' "$2" ;;
        *) shift; continue ;;
    esac
    shift 2
done
"""


@pytest.fixture
def psql(tmp_path: Path) -> str:
    (tmp_path / "psql").write_text(PSQL.format(log=tmp_path / "log"))
    (tmp_path / "psql").chmod(0o755)
    return str(tmp_path / "psql")


def ask(probes: list[str]) -> list[tuple[str, bool]]:
    commands, split_results = merge_queries(probes)
    results = split_results(LocalHost().batch(commands))
    assert [result.command for result in results] == probes
    return [(result.text, result.ok) for result in results]


def test_each_probe_gets_its_own_result_from_few_processes(psql: str, tmp_path: Path) -> None:
    probes = [
        Query(psql, "a", "one\ntwo"),
        "echo between",
        Query(psql, "a", "bad"),
        Query(psql, "b", "alone"),
        Query(psql, "a", "it's three"),
        "exit 3",
        Query(psql, "a", ""),
    ]
    assert ask(probes) == [
        ("one\ntwo", True),
        ("between", True),
        ("", False),
        ("alone", True),
        ("it's three", True),
        ("", False),
        ("", True),
    ]
    assert len((tmp_path / "log").read_text().splitlines()) == 2


def test_queries_after_the_end_of_psql_have_failed(psql: str) -> None:
    assert ask([Query(psql, "a", "one"), Query(psql, "a", "die"), Query(psql, "a", "two")]) == [
        ("one", True),
        ("", False),
        ("", False),
    ]
    assert ask([Query("false", "a", "one"), Query("false", "a", "two")]) == [("", False), ("", False)]


def test_single_query_is_plain_shell_text(psql: str) -> None:
    query = Query(psql, "a", "one")
    assert merge_queries([query])[0] == [query]
    assert LocalHost().run(query + " 2>&1").text == "one"
    assert merge_queries([])[1]([]) == []
    assert merge_queries([query])[1]([Result("x", 0, b"1")])[0].text == "1"
