"""The health of a pipeline: from the report of its last build, and from its last runs in Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from homelab.host import UNREADABLE, Result, argv
from homelab.model import Health, Pipeline
from homelab.model.weather_settings import Stream
from homelab.pipelines.build_report import failed_nodes
from homelab.pipelines.layout import Layout
from homelab.pipelines.stream import stream_problems

_LONGEST = 1000  # characters of the summary
# Keys of a published build's report: work that failed, and that the next builds repeat.
_LEFT_BEHIND = {"raw_copy_problem": "no raw row is copied to the lake", "archive_problem": "no month is archived"}

_NO_RESULT = Result("", 0, b"")


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to `build_probe`, and of Airflow: the last runs of the DAG, newest first, and `t` if it is paused.

    `stream` is the state of the stream, for a pipeline that has one.
    """

    build: Result
    runs: Result
    paused: Result = _NO_RESULT
    stream: Result = _NO_RESULT


class NoReport(Exception):
    """The report of the weather cannot be read."""


def build_probe(pipeline: Pipeline) -> str:
    """Return shell text that prints the report of the last build; for the weather, also of its marts."""
    layout = Layout(pipeline)
    if pipeline.is_weather:
        words = ("python", f"{layout.root}/scripts/report.py", "--database", layout.published)
        return layout.run(argv(*words)) + " 2>&1"
    return layout.read_data("last_build.json")


def assess(pipeline: Pipeline, answers: Answers, now: datetime, stream: Stream | None = None) -> Health:
    """Return the health of a pipeline."""
    try:
        report = _report(pipeline, answers.build)
        build = report["last_build"]
        recent: list[dict[str, Any]] = json.loads(answers.runs.text) if answers.runs.ok else []
        problems = [*_run_problems(pipeline, recent), *_build_problems(pipeline, build, now)]
        if stream:
            problems += stream_problems(stream, answers.stream, now)
        if answers.paused.ok and answers.paused.text == "t":
            problems.append("its DAG is paused: switch it on in the web UI of Airflow")
        if build and build["status"] == "success" and report.get("published_bytes", 0) is None:
            again = f"`homelab pipeline run {pipeline.name}` publishes them again"
            problems.append(f"the published marts are missing, although a build succeeded: {again}")
        # The pipeline writes the report: its texts may have any length, and line feeds.
        text = " ".join("; ".join(problems or [*_facts(build, recent), *_mart_facts(report)]).split())[:_LONGEST]
        return Health(not problems, text, {**report, "last_runs": recent}, ready=True)
    except NoReport as error:
        return Health(False, str(error))
    except UNREADABLE as error:
        return Health(False, f"its report has an unexpected format ({type(error).__name__})")


def _report(pipeline: Pipeline, answer: Result) -> Mapping[str, Any]:
    """Return the report with its key `last_build`. Raises NoReport."""
    if pipeline.is_weather:
        if not answer.ok:
            raise NoReport(f"no report: {answer.text[-200:]}")
        found: dict[str, Any] = json.loads(answer.text.splitlines()[-1])
        return found
    return {"last_build": json.loads(answer.text) if answer.ok and answer.text else None}


def _mart_facts(report: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{mart['name']} {mart['rows']} rows to {mart['newest']}" for mart in report.get("marts", ()))
    if report.get("issues"):
        yield f"{report['issues']} implausible values are left out"
    if held := report.get("held_back"):
        yield f"a transaction has been open since {held['since']}: {held['transaction']}"


def _run_problems(pipeline: Pipeline, recent: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    run = _last_finished(recent)
    if run and run["state"] == "failed":
        tasks = f" ({run['failed_tasks']})" if run.get("failed_tasks") else ""
        again = f"`homelab pipeline run {pipeline.name}` repeats it and shows the message"
        yield f"last run failed at {run['end_date'][:19]}{tasks}: {again}"


def _build_problems(pipeline: Pipeline, report: Mapping[str, Any] | None, now: datetime) -> Iterator[str]:
    if report is None:
        return
    if report["status"] != "success":
        failed = failed_nodes(report)
        more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        event = "published only in part" if report["status"] == "partial" else "build failed"
        yield f"{event} at {report['finished']}: {failed[0] if failed else 'dbt has not run'}{more}"
        return
    for key, event in _LEFT_BEHIND.items():
        if problem := report.get(key):
            yield f"{event} since {report['finished']}: {problem}"
    if pipeline.expected_every:
        age = now - datetime.fromisoformat(report["finished"])
        if age > timedelta(seconds=pipeline.expected_every.seconds):
            yield f"late: last built {report['finished']}, expected every {pipeline.expected_every}"


def _facts(report: Mapping[str, Any] | None, recent: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    run = _last_finished(recent)
    yield f"last run {run['state']} at {run['end_date'][:19]}" if run else "no run yet"
    if report:
        yield f"built {report['finished']}, {report['tests_passed']} tests passed, {report['tests_failed']} failed"


def _last_finished(recent: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    return next((run for run in recent if run["state"] in ("success", "failed")), None)
