"""The pipeline's tools: backfill from files, status, query shell and documentation."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.pipeline_backfill import Backfilled
from homelab.commands.pipeline_status import PipelineStatus
from homelab.lab.observations import PLACES, answer, load
from homelab.runtime.marts import Rows
from homelab.runtime.sql_shell import SqlShell
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCRIPTS

from contract import EXIT  # isort: skip

pytestmark = pytest.mark.timeout(300)


def history(hours: int, units: str = "imperial") -> list[dict[str, Any]]:
    """Return OpenWeather's responses for the first hours of Newark."""
    return [answer(PLACES[0], seen, units) for seen in load()["EWR"][:hours]]


def backfill(stack: Stack, text: str, *options: str, expect: int = 0) -> Backfilled:
    """Backfill from standard input, as `homelab pipeline backfill` does."""
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_file.py"), *options],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={
            **os.environ,
            "WEATHER_CITIES": '[{"name": "Home", "id": 5101798}]',
            **stack.server.environment(stack.database, "analytics", "analytics"),
        },
    )
    assert done.returncode == expect, done.stderr
    return Backfilled(**json.loads(done.stdout.splitlines()[-1]))


def lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_files_of_every_supported_form_are_stored(stack: Stack) -> None:
    samples = history(30)
    assert backfill(stack, lines(samples[:10])) == Backfilled(10, 0, 0, {})
    assert backfill(stack, lines(samples[:12])) == Backfilled(2, 10, 0, {}), "repeated: only the new rows"
    assert backfill(stack, json.dumps(samples[12:15], indent=1)).stored == 3, "one document over many lines"
    exported = [{"city": "Elsewhere", "units": "metric", "data": one} for one in history(5, "metric")]
    assert backfill(stack, lines(exported)).stored == 5
    hours = [{key: one[key] for key in ("dt", "main", "wind")} for one in samples[:2]]
    history_response = {"cnt": 2, "city_id": 1, "list": hours}
    assert backfill(stack, json.dumps(history_response), "--city", "Named").stored == 2
    unknown_id = {**samples[0], "id": 7}
    assert backfill(stack, lines([unknown_id])).stored == 1

    invalid = [{"dt": 5}, {**samples[22], "main": {"temp": "hot"}}]
    outcome = backfill(stack, lines([samples[20], invalid[0], samples[21], invalid[1]]), expect=EXIT.partial)
    assert (outcome.stored, outcome.quarantined) == (2, 2)
    assert outcome.reasons == {"the observation has no city": 1, "the response's main.temp is not a number": 1}
    assert "1 times: the response's main.temp is not a number" in str(outcome)
    with stack.server.connect(stack.database) as connection:
        rows = dict(connection.execute("select city, count(*) from raw.weather_observations group by city").fetchall())  # type: ignore[arg-type]
        assert rows == {"Home": 17, "Elsewhere": 5, "Named": 2, "Newark,US": 1}
        assert connection.execute("select count(*) from raw.quarantine").fetchone() == (2,)


@pytest.mark.parametrize("text", ["no json", '{"dt": 1}\nno json\n', "[1, 2"])
def test_a_file_without_json_is_refused(stack: Stack, text: str) -> None:
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_file.py")],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **stack.server.environment(stack.database, "analytics", "analytics")},
    )
    assert done.returncode == EXIT.bad_input
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


MARTS = ("cities", "city_history", "pipeline_runs", "observation_issues")


def test_status_the_shell_and_the_documentation(stack: Stack, tmp_path: Path) -> None:
    def status() -> PipelineStatus:
        done = stack.script("pipeline_status.py", "--database", str(stack.published))
        return PipelineStatus(**json.loads(done.stdout))

    assert list(status().lines()) == ["build      none yet"]
    samples = history(30)
    backfill(stack, lines(samples[:10] + samples[13:]))
    stack.ingest(["Newark,US", "Nowhere,XX"], expect=EXIT.partial)
    stack.build()
    report = status()
    text = "\n".join(report.lines())
    assert "build      success" in text
    assert "1 stored, 0 unchanged, 1 failed of 2" in text
    assert "published  2 cities, newest day 2013-01-0" in text
    assert [(run["outcome"], run["observations_stored"]) for run in report.runs] == [("partial", 1), ("success", 27)]
    missing = stack.query("select sum(times_missing)::int as n from weather_completeness where city = 'Home'")
    # Until the city is inactive; the station itself missed an hour.
    assert missing == [{"n": (samples[29]["dt"] - samples[0]["dt"]) // 3600 + 1 - 27 + 7 * 24}]

    shown: list[Rows] = []
    SqlShell(stack.query, shown.append, print).run_all(
        [".tables", "select count(*) as n", "from weather_hourly where city = 'Home';", "select 'a;\nb' as c; select 2"]
    )
    tables = [row["table_name"] for row in shown[0]]
    assert "weather_month_to_date" in tables
    assert not [name for name in tables if not name.startswith("weather_") and name not in MARTS]
    assert shown[1:] == [[{"n": 27}], [{"c": "a;\nb"}], [{"2": 2}]]

    started = time.monotonic()
    page = Path(stack.script("dbt_docs.py", "--data", str(stack.data), "--profiles", str(stack.data)).stdout.strip())
    duration = time.monotonic() - started
    html = page.read_text()
    assert "One row per city and hour (UTC) with an observation" in html
    assert html.lstrip().startswith("<!doctype html>")
    started = time.monotonic()
    stack.script("dbt_docs.py", "--data", str(stack.data), "--profiles", str(stack.data))
    assert time.monotonic() - started < duration / 2, "an unchanged project is not documented again"
