"""`homelab pipeline status`: the last fetches, the last build, missing observations, and implausible values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from homelab.host import check, expected_format
from homelab.model import Container, Health
from homelab.model.stages import ANALYTICS, INGESTION
from homelab.pipelines.layout import Layout
from homelab.runtime.deployed_pipelines import weather_layout, weather_words
from homelab.runtime.pipeline_reports import report_pipelines
from homelab.runtime.session import Session


@dataclass(frozen=True)
class PipelineStatus:
    """The last build and fetch as their scripts report them, the last runs, missing observations, and issues."""

    last_build: dict[str, Any] | None
    last_ingest: dict[str, Any] | None
    published: dict[str, Any] | None
    spooled_bytes: int
    runs: Sequence[dict[str, Any]]
    missing: Sequence[dict[str, Any]]
    issues: Sequence[dict[str, Any]] = ()
    held_back: dict[str, str] | None = None

    def lines(self) -> Iterator[str]:
        """Yield the status as lines for people."""
        build, fetch, published = self.last_build, self.last_ingest, self.published
        if build is None:
            yield "build      none yet"
        else:
            yield (
                f"build      {build['status']} at {build['finished']}, {build['seconds']} s: {build['models_built']}"
                f" models, {build['tests_passed']} tests passed, {build['tests_failed']} failed"
            )
            yield from (f"           {problem['status']}: {problem['node']}" for problem in build["problems"])
        if fetch is not None:
            yield (
                f"fetch      {fetch['finished']}: {fetch['stored']} stored, {fetch['unchanged']} unchanged, "
                f"{fetch['failed']} failed of {fetch['asked']}"
            )
        if published is not None:
            yield (
                f"published  {published['cities']} cities, newest day {published['newest_day']}, newest row "
                f"{published['newest_row']}"
            )
            if published["issues"]:
                yield f"issues     {published['issues']} implausible values are left out; the newest:"
        for issue in self.issues[:3]:
            where = f"{issue['city']} {issue['observation_timestamp']}"
            yield f"           {where}: {issue['column_name']} {issue['value']}: {issue['reason']}"
        if held := self.held_back:
            yield f"held back  a transaction has been open since {held['since']}: {held['transaction']}"
        if self.spooled_bytes:
            yield f"spooled    {self.spooled_bytes} bytes on disk, waiting for PostgreSQL"


@dataclass(frozen=True)
class OwnPipelineStatus:
    """The health of a user's pipeline, with its last runs and its last build."""

    name: str
    health: Health

    def lines(self) -> Iterator[str]:
        """Yield the status as lines for people."""
        yield self.health.summary
        build = self.health.facts.get("last_build")
        for problem in build["problems"] if build else ():
            yield f"{problem['status']}: {problem['node']}: {' '.join(str(problem['message']).split())}"
        for run in self.health.facts.get("last_runs", ()):
            failed = f" ({run['failed_tasks']})" if run["failed_tasks"] else ""
            yield f"{run['run_id']}: {run['state']}{failed}"


def own_status(session: Session, name: str) -> OwnPipelineStatus:
    """Return the status of a user's pipeline. Raises InputError for an unknown one."""
    session.inventory.pipeline(name)
    (report,) = (each for each in report_pipelines(session) if each.name == name)
    return OwnPipelineStatus(name, report.health)


def status(session: Session) -> PipelineStatus:
    """Return the pipeline's status. Raises HomelabError if it cannot be read."""
    layout = weather_layout(session.inventory)
    builds, fetches = session.inventory.container_of(ANALYTICS), session.inventory.container_of(INGESTION)
    found = _read(session, builds, layout)
    if fetches.name == builds.name:
        return found
    fetched = _read(session, fetches, layout)
    return replace(found, last_ingest=fetched.last_ingest, spooled_bytes=fetched.spooled_bytes)


def _read(session: Session, container: Container, layout: Layout) -> PipelineStatus:
    command = layout.run(weather_words(layout, "pipeline_status.py", "--database", layout.published))
    with session.connect(container) as host:
        result = check(host, command, "read the status of the pipeline")
    with expected_format(container.name, "read the status of the pipeline"):
        found = PipelineStatus(**json.loads(result.text.splitlines()[-1]))
        list(found.lines())  # reads every part
        return found
