"""What people ask of the pipeline: history from files, how it is, a shell on the marts, the documentation."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from homelab.commands.backfill import Backfilled, PipelineStatus
from homelab.lab.observations import PLACES, answer, load
from tests.integration.test_pipeline import Stack
from tests.integration.test_pipeline import stack as stack
from tests.scripts import SCRIPTS

pytestmark = pytest.mark.timeout(300)


def history(hours: int, units: str = "imperial") -> list[dict[str, Any]]:
    """The first hours of Newark, as OpenWeather tells them."""
    return [answer(PLACES[0], seen, units) for seen in load()["EWR"][:hours]]


def backfill(stack: Stack, text: str, *words: str, expect: int = 0) -> Backfilled:
    """Bring a file in from standard input, as `homelab pipeline backfill` does."""
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_weather.py"), *words],
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


def test_history_comes_in_from_files_of_every_form(stack: Stack) -> None:
    told = history(30)
    assert backfill(stack, lines(told[:10])) == Backfilled(10, 0, 0, {})
    assert backfill(stack, lines(told[:12])) == Backfilled(2, 10, 0, {}), "again: only what is new"
    assert backfill(stack, json.dumps(told[12:15], indent=1)).stored == 3, "one document over many lines"
    exported = [{"city": "Elsewhere", "units": "metric", "data": one} for one in history(5, "metric")]
    assert backfill(stack, lines(exported)).stored == 5
    of_the_history_api = {
        "cnt": 2,
        "city_id": 1,
        "list": [{k: v for k, v in one.items() if k in ("dt", "main", "wind")} for one in told[:2]],
    }
    assert backfill(stack, json.dumps(of_the_history_api), "--city", "Named").stored == 2
    stranger = {**told[0], "id": 7}
    assert backfill(stack, lines([stranger])).stored == 1

    outcome = backfill(stack, lines([told[20], {"dt": 5}, told[21], {**told[22], "main": {"temp": "hot"}}]), expect=4)
    assert (outcome.stored, outcome.quarantined) == (2, 2)
    assert outcome.reasons == {"the observation does not say its city": 1, "the answer's main.temp is not a number": 1}
    assert "1 times: the answer's main.temp is not a number" in str(outcome)
    with stack.server.connect(stack.database) as connection:
        rows = dict(connection.execute("select city, count(*) from raw.weather_observations group by city").fetchall())  # type: ignore[arg-type]
        assert rows == {"Home": 17, "Elsewhere": 5, "Named": 2, "Newark,US": 1}
        assert connection.execute("select count(*) from raw.quarantine").fetchone() == (2,)


@pytest.mark.parametrize("text", ["no json", '{"dt": 1}\nno json\n', "[1, 2"])
def test_what_is_no_json_is_said(stack: Stack, text: str) -> None:
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "backfill_weather.py")],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **stack.server.environment(stack.database, "analytics", "analytics")},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def shell(stack: Stack, text: str, expect: int = 0) -> str:
    """What the shell answers to statements that are piped into it."""
    done = subprocess.run(
        [str(stack.python), str(SCRIPTS / "query.py"), "--database", str(stack.published), "--format", "csv"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout + done.stderr


def test_status_the_shell_and_the_documentation(stack: Stack, tmp_path: Path) -> None:
    def status() -> PipelineStatus:
        done = stack.script("pipeline_status.py", "--database", str(stack.published))
        return PipelineStatus(**json.loads(done.stdout))

    assert list(status().lines()) == ["build      none yet"]
    told = history(30)
    backfill(stack, lines(told[:10] + told[13:]))
    stack.ingest(["Newark,US", "Nowhere,XX"], expect=4)
    stack.transform()
    report = status()
    text = "\n".join(report.lines())
    assert "build      success" in text
    assert "1 stored, 0 unchanged, 1 failed of 2" in text
    assert "published  2 cities, newest day 2013-01-0" in text
    assert [(run["outcome"], run["observations_stored"]) for run in report.runs] == [("partly", 1), ("success", 27)]
    assert sum(row["hours_missing"] for row in report.missing if row["city"] == "Home") == (
        (told[29]["dt"] - told[0]["dt"]) // 3600 + 1 - 27
    )  # the station was silent for an hour, too

    answered = shell(
        stack,
        ".tables\nselect count(*) as n\nfrom weather_hourly where city = 'Home';\nselect 'a;\nb' as c;\nselect 2 as d",
    ).replace("\r", "")
    assert "weather_month_to_date" in answered
    assert answered.endswith('n\n27\nc\n"a;\nb"\nd\n2\n')
    assert "error: Parser Error" in shell(stack, "selec 1;", expect=1)

    started = time.monotonic()
    page = Path(stack.script("document.py", "--data", str(stack.data), "--profiles", str(stack.data)).stdout.strip())
    made = time.monotonic() - started
    html = page.read_text()
    assert "One row per city and hour (UTC) in which it was observed" in html
    assert html.lstrip().startswith("<!doctype html>")
    started = time.monotonic()
    stack.script("document.py", "--data", str(stack.data), "--profiles", str(stack.data))
    assert time.monotonic() - started < made / 2, "made anew only when the project has changed"
