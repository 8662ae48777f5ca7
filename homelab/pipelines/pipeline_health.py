"""The health of a pipeline: from the report of its last build, and from its last runs in Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from homelab.host import UNREADABLE, Result
from homelab.model import Health, Pipeline
from homelab.pipelines.build_report import failed_nodes
from homelab.pipelines.layout import Layout

_LONGEST = 1000  # characters of the summary


def build_probe(pipeline: Pipeline) -> str:
    """Return shell text that prints the report of the last build."""
    return Layout(pipeline).read_data("last_build.json")


def assess(pipeline: Pipeline, build: Result, runs: Result, now: datetime) -> Health:
    """Return the health from the answer to `build_probe` and the last runs of its DAG, newest first."""
    try:
        report: dict[str, Any] | None = json.loads(build.text) if build.ok and build.text else None
        recent: list[dict[str, Any]] = json.loads(runs.text) if runs.ok else []
        problems = [*_run_problems(pipeline, recent), *_build_problems(pipeline, report, now)]
        # The pipeline writes the report: its texts may have any length, and line feeds.
        text = " ".join("; ".join(problems or _facts(report, recent)).split())[:_LONGEST]
        return Health(not problems, text, {"last_build": report, "last_runs": recent}, ready=True)
    except UNREADABLE as error:
        return Health(False, f"its report has an unexpected format ({type(error).__name__})")


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
    elif pipeline.expected_every:
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
