"""The health of a user's pipeline in `homelab status`: from its last build, and from its last runs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from homelab.cli.report_output import show_status
from homelab.commands.pipeline_status import own_status
from homelab.errors import HomelabError, InputError
from homelab.host import Result
from homelab.model import Duration, Health
from homelab.pipelines.pipeline_health import Answers, assess
from homelab.runtime.container_states import ContainerState
from homelab.runtime.lab_report import ContainerReport, LabReport, ServiceReport
from homelab.runtime.pipeline_reports import PipelineReport, report_pipelines
from tests.support import NoHost, make_session
from tests.unit.test_pipelines import with_prices

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
BUILT = {
    "status": "success",
    "finished": "2026-11-26T11:00:00+00:00",
    "tests_passed": 3,
    "tests_failed": 0,
    "problems": [],
}
BROKEN = {
    **BUILT,
    "status": "failed",
    "problems": [{"node": "model.prices.prices_daily", "status": "error", "message": "no column x"}],
}
IN_PART = f"published only in part at {BUILT['finished']}"
PARTIAL = {
    **BUILT,
    "status": "partial",
    "problems": [{"node": "pipeline weather", "status": "error", "message": "it has published nothing yet"}],
}
SUCCESS = {"run_id": "r", "state": "success", "end_date": "2026-11-26T11:00:01.5", "failed_tasks": None}
FAILED = {**SUCCESS, "state": "failed", "failed_tasks": "fetch"}


def answer(value: object) -> Result:
    """Return the answer of a probe; None is one that failed."""
    return Result("", 1) if value is None else Result("", 0, json.dumps(value).encode())


def health(folder: Path, build: object, runs: object, every: str | None = None) -> Health:
    pipeline = replace(with_prices(folder).pipeline("prices"), expected_every=Duration(every) if every else None)
    return assess(pipeline, Answers(answer(build), answer(runs)), NOW)


WEATHER = {"last_build": BUILT, "marts": [{"name": "m", "rows": 3, "newest": "N"}], "published_bytes": 9}
BUILD_FACTS = "built 2026-11-26T11:00:00+00:00, 3 tests passed, 0 failed"


@pytest.mark.parametrize(
    ("report", "runs", "paused", "healthy", "summary"),
    [
        (WEATHER, [], "", True, f"no run yet; {BUILD_FACTS}; m 3 rows to N"),
        (
            {**WEATHER, "issues": 2, "held_back": {"since": "S", "transaction": "T"}},
            [],
            "f",
            True,
            f"no run yet; {BUILD_FACTS}; m 3 rows to N; 2 implausible values are left out; a transaction has been open "
            "since S: T",
        ),
        ({"last_build": None, "marts": [], "published_bytes": None}, [], "", True, "no run yet"),
        (WEATHER, [], "t", False, "its DAG is paused: switch it on in the web UI of Airflow"),
        (
            {**WEATHER, "published_bytes": None},
            [],
            "",
            False,
            "the published marts are missing, although a build succeeded: `homelab pipeline run weather` publishes "
            "them again",
        ),
        ({**WEATHER, "last_build": BROKEN}, [], "", False, "build failed at 2026-11-26T11:00:00+00:00: model "),
        (None, [], "", False, "no report: "),
        (WEATHER, [FAILED], "", False, "last run failed at 2026-11-26T11:00:01 (fetch): `homelab pipeline run weather"),
    ],
)
def test_health_of_the_weather_has_its_marts(
    tmp_path: Path, report: object, runs: object, paused: str, healthy: bool, summary: str
) -> None:
    weather = with_prices(tmp_path).pipeline("weather")
    answers = Answers(answer(report), answer(runs), Result("", 0, paused.encode()))
    found = assess(weather, answers, NOW)
    assert (found.healthy, found.ready or report is None) == (healthy, True)
    assert found.summary.startswith(summary)


@pytest.mark.parametrize(
    ("build", "runs", "every", "healthy", "summary"),
    [
        (None, [], None, True, "no run yet"),
        (None, None, None, True, "no run yet"),
        (
            BUILT,
            [{**SUCCESS, "state": "running"}, SUCCESS],
            "2h",
            True,
            "last run success at 2026-11-26T11:00:01; built 2026-11-26T11:00:00+00:00, 3 tests passed, 0 failed",
        ),
        (BUILT, [SUCCESS], "30m", False, "late: last built 2026-11-26T11:00:00+00:00, expected every 30m"),
        (
            {**BUILT, "archive_problem": "no route"},
            [SUCCESS],
            "2h",
            False,
            "no month is archived since 2026-11-26T11:00:00+00:00: no route",
        ),
        (
            {**BUILT, "raw_copy_problem": "no route"},
            [SUCCESS],
            "2h",
            False,
            "no raw row is copied to the lake since 2026-11-26T11:00:00+00:00: no route",
        ),
        (PARTIAL, [SUCCESS], None, False, f"{IN_PART}: pipeline weather: it has published nothing yet"),
        (BROKEN, [SUCCESS], None, False, "build failed at 2026-11-26T11:00:00+00:00: model prices_daily: no column x"),
        (
            BUILT,
            [FAILED],
            None,
            False,
            "last run failed at 2026-11-26T11:00:01 (fetch): `homelab pipeline run prices` repeats it and shows the "
            "message",
        ),
        ([], {}, None, False, "its report has an unexpected format (TypeError)"),
    ],
)
def test_health_names_the_last_run_and_the_last_build(
    tmp_path: Path, build: object, runs: object, every: str | None, healthy: bool, summary: str
) -> None:
    found = health(tmp_path, build, runs, every)
    assert (found.healthy, found.summary) == (healthy, summary)


def test_health_is_one_line_of_a_limited_length(tmp_path: Path) -> None:
    summary = health(tmp_path, {**BUILT, "finished": "2026\n" + "x" * 90_000}, []).summary
    assert "\n" not in summary
    assert len(summary) == 1000


class Answering(NoHost):
    """A container that answers the probes of both services."""

    def batch(self, commands: list[str]) -> list[Result]:
        """See Host.batch."""
        return [Result(each, 0, self._answer(each).encode()) for each in commands]

    @staticmethod
    def _answer(command: str) -> str:
        if "last_build" in command:
            return json.dumps(BROKEN)
        # The runs and `is_paused` of each pipeline, from one psql.
        marks = re.findall(r"echo (\w+) :ERROR", command)
        texts = [json.dumps([FAILED]), "f"] * (len(marks) // 2)
        return "".join(f"{text}\n{mark} false\n" for text, mark in zip(texts, marks, strict=True))


def test_status_of_a_pipeline_has_the_message_of_dbt(tmp_path: Path) -> None:
    session = make_session(with_prices(tmp_path), connector=lambda *_: Answering())
    lines = list(own_status(session, "prices").lines())
    assert lines[1:] == ["error: model.prices.prices_daily: no column x", "r: failed (fetch)"]
    with pytest.raises(InputError, match="it is missing in the inventory") as caught:
        own_status(session, "price")
    assert "Pipelines in the inventory: weather, prices." in caught.value.details


def test_container_that_does_not_answer_leaves_the_health_unknown(tmp_path: Path) -> None:
    def refuse(*_: object) -> Any:
        raise HomelabError("Cannot connect to analytics-platform: no answer", "", "")

    reports = report_pipelines(make_session(with_prices(tmp_path), connector=refuse))
    unknown = Health(False, "not known: Cannot connect to analytics-platform: no answer")
    assert reports == [PipelineReport("weather", unknown), PipelineReport("prices", unknown)]


def test_lab_with_an_unhealthy_pipeline_is_unhealthy(capsys: pytest.CaptureFixture[str]) -> None:
    report = LabReport("home", (), pipelines=[PipelineReport("prices", Health(False, "no rows"))])
    assert not report.healthy
    show_status(report)
    assert "✗ pipeline prices no rows" in capsys.readouterr().out


def test_long_name_of_a_service_stays_apart_from_its_health(capsys: pytest.CaptureFixture[str]) -> None:
    services = [ServiceReport(name, {}, Health(True, "works")) for name in ("airflow", "blackbox_exporter")]
    state = ContainerState(name="a", vmid=1, address="10.0.0.1", exists=True, running=True)
    show_status(LabReport("home", [ContainerReport("a", state, services)]))
    assert capsys.readouterr().out.splitlines()[-3:-1] == ["✓ airflow    works", "✓ blackbox_exporter works"]
