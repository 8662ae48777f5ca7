"""The comparison of tables in two DuckDB files, with results that are known beforehand."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.scripts import script

WRITE = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(sys.argv[2])"
BASE = "select * from (values (1, 'a', 1.5::double), (2, 'b', 2.5), (3, null, null)) as rows (id, name, value)"


def compare(python: Path, folder: Path, before: str, after: str, key: list[str]) -> dict[str, Any]:
    for name, sql in (("before", before), ("after", after)):
        words = [str(python), "-c", WRITE, str(folder / f"{name}.duckdb"), f'create table "a ""table" as {sql}']
        subprocess.run(words, check=True, timeout=60)
    request = {
        "before": str(folder / "before.duckdb"),
        "after": str(folder / "after.duckdb"),
        "tables": [{"name": 'a "table', "key": key}],
    }
    done = subprocess.run(
        [str(python), script("diff_marts.py")], input=json.dumps(request), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


@pytest.mark.parametrize(
    ("after", "key", "counts", "used", "columns"),
    [
        (BASE, ["id"], (0, 0, 0), ["id"], {}),
        (BASE, [], (0, 0, 0), [], {}),
        # With a key, a changed row is one; without, it is a removed and an added one.
        (f"from ({BASE}) select * replace (coalesce(value, 9) as value)", ["id"], (0, 0, 1), ["id"], {"value": 1}),
        (f"from ({BASE}) select * replace (coalesce(value, 9) as value)", [], (1, 1, 0), [], {}),
        (f"{BASE} where id > 1 union all select 4, 'd', 4", ["id"], (1, 1, 0), ["id"], {}),
        # The number of equal rows counts.
        (f"{BASE} union all {BASE}", [], (3, 0, 0), [], {}),
        # A key with duplicates, with nulls, or that is missing on a side, is no key.
        (f"{BASE} union all {BASE}", ["id"], (3, 0, 0), [], {}),
        (BASE, ["name"], (0, 0, 0), [], {}),
        (f"from ({BASE}) select * exclude (id)", ["id"], (0, 0, 0), [], {"id": 0}),
        # A changed type alone changes no row.
        (f"from ({BASE}) select * replace (id::bigint as id)", ["id"], (0, 0, 0), ["id"], {"id": 0}),
        (f"from ({BASE}) select * replace (value::integer as value)", ["id"], (0, 0, 0), ["id"], {"value": 0}),
        (f"from ({BASE}) select *, 1 as more", ["id"], (0, 0, 0), ["id"], {"more": 0}),
    ],
)
def test_rows_and_columns_are_compared(
    analytics_python: Path,
    tmp_path: Path,
    after: str,
    key: list[str],
    counts: tuple[int, int, int],
    used: list[str],
    columns: dict[str, int],
) -> None:
    found = compare(analytics_python, tmp_path, BASE, after, key)
    assert (found["added"], found["removed"], found["changed"]) == counts
    assert found["key"] == used
    assert {column["name"]: column["rows"] for column in found["columns"]} == columns
