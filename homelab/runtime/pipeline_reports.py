"""The health of the user's pipelines, read from the container that runs them and from Airflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Health
from homelab.pipelines.pipeline_health import assess, build_probe
from homelab.runtime.session import Session
from homelab.services.airflow_metadata import last_runs
from homelab.steps.queries import merge_queries

_CONNECT_DEADLINE = 3.0  # seconds


@dataclass(frozen=True)
class PipelineReport:
    """A pipeline of the user, and its health."""

    name: str
    health: Health


def report_pipelines(session: Session) -> Sequence[PipelineReport]:
    """Return the health of the user's pipelines; if a container does not answer, they are unhealthy."""
    pipelines = session.inventory.pipelines
    if not pipelines:
        return ()
    try:
        builds = _ask(session, "analytics", [build_probe(each) for each in pipelines])
        has_airflow = bool(session.inventory.containers_with("airflow"))
        runs = (
            _ask(session, "airflow", [last_runs(each.name) for each in pipelines])
            if has_airflow
            else [Result("", 0, b"[]") for _ in pipelines]
        )
    except HomelabError as error:
        return [PipelineReport(each.name, Health(False, f"not known: {error.brief}")) for each in pipelines]
    now = datetime.now(UTC)
    return [
        PipelineReport(each.name, assess(each, build, run, now))
        for each, build, run in zip(pipelines, builds, runs, strict=True)
    ]


def _ask(session: Session, service: str, probes: Sequence[str]) -> Sequence[Result]:
    commands, split_results = merge_queries(probes)
    with session.connect(session.inventory.container_with(service), _CONNECT_DEADLINE) as host:
        return split_results(host.batch(commands))
