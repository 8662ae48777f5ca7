"""The statements and the program of docs/how-to/use-other-tools.md, on a small copy of the weather's marts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from tests.scripts import ROOT

PAGE = (ROOT / "docs" / "how-to" / "use-other-tools.md").read_text()
MARTS = """
create table weather_daily as
select 'Newark,US' as city, date '2026-01-01' + i::int as observation_date from range(12) as days (i)
"""


def run(python: Path, folder: Path, code: str) -> str:
    done = subprocess.run([str(python), "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_marts(python: Path, folder: Path) -> None:
    (folder / "marts").mkdir()
    copy = "copy weather_daily to 'marts/weather_daily.parquet'"
    run(python, folder, f"import duckdb; duckdb.connect('weather.duckdb').execute({MARTS!r}).execute({copy!r})")


def test_statements_of_the_page_run(analytics_python: Path, tmp_path: Path) -> None:
    write_marts(analytics_python, tmp_path)
    statements = re.findall(r'^duckdb (-readonly (\S+)|-c) "(.*)"$', PAGE, re.MULTILINE)
    assert len(statements) == 3
    counts = []
    for _, file, sql in statements:
        code = (
            f"import duckdb; print(len(duckdb.connect({file!r}, read_only={bool(file)}).execute({sql!r}).fetchall()))"
        )
        counts.append(json.loads(run(analytics_python, tmp_path, code)))
    assert counts == [10, 10, 1]
    assert len((tmp_path / "weather_daily.csv").read_text().splitlines()) == 13


def test_program_of_the_page_runs(analytics_python: Path, tmp_path: Path) -> None:
    write_marts(analytics_python, tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert run(analytics_python, tmp_path, program + "print(len(daily))").strip() == "12"
