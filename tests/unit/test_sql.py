"""The dbt project's SQL: DuckDB's dialect is only in macros, so another target needs only a profile and macros."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pipelines" / "weather" / "dbt"
FILES = [path for folder in ("models", "snapshots", "tests") for path in sorted((PROJECT / folder).rglob("*.sql"))]
DUCKDB_DIALECT = (
    "qualify",
    r"group by all",
    r"order by all",
    r"by name",
    r"try_cast",
    r"try\(",
    r"arg_m(ax|in)\b",
    r"unnest\(",
    r"generate_series",
    r"strftime",
    r"strptime",
    r"to_timestamp",
    r"epoch",
    r"::",
    r"\bexclude\s*\(",
    r"\breplace\s*\(",
    r"list_\w+\(",
    r"postgres_query",
    r"read_\w+\(",
    r"asof join",
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_models_contain_no_duckdb_dialect(path: Path) -> None:
    sql = re.sub(r"--.*", "", re.sub(r"\{#.*?#\}", "", path.read_text(), flags=re.DOTALL))
    assert [word for word in DUCKDB_DIALECT if re.search(word, sql, re.IGNORECASE)] == []


def test_every_dispatched_macro_has_a_duckdb_version() -> None:
    text = "".join(path.read_text() for path in sorted((PROJECT / "macros").glob("*.sql")))
    dispatched = set(re.findall(r"adapter\.dispatch\('(\w+)'\)", text))
    assert dispatched == set(re.findall(r"macro duckdb__(\w+)", text))
    assert "number_of" in dispatched


@pytest.mark.slow
@pytest.mark.parametrize("folder", sorted({str(path.parent.relative_to(PROJECT)) for path in FILES} - {"snapshots"}))
def test_sqlfluff_finds_nothing(folder: str) -> None:
    sqlfluff, root = Path(sys.executable).with_name("sqlfluff"), Path(__file__).parents[2]
    command = [sqlfluff, "lint", "--disable-progress-bar", PROJECT / folder]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
