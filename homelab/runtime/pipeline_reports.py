"""The health of the pipelines, read from the container that builds them and from Airflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from homelab.errors import HomelabError
from homelab.host import Result
from homelab.model import Container, Health
from homelab.model.stages import ANALYTICS, INGESTION
from homelab.pipelines.pipeline_health import Answers, assess, build_probe
from homelab.pipelines.stream import stream_of, stream_probe
from homelab.runtime.concurrency import start
from homelab.runtime.session import Session
from homelab.services.airflow_metadata import is_paused, last_runs
from homelab.steps.queries import merge_queries

_CONNECT_DEADLINE = 3.0  # seconds


@dataclass(frozen=True)
class PipelineReport:
    """A pipeline and its health."""

    name: str
    health: Health


def report_pipelines(session: Session) -> Sequence[PipelineReport]:
    """Return the health of the pipelines; if a container does not answer, they are unhealthy."""
    pipelines = session.inventory.pipelines
    if not pipelines:
        return ()
    airflow = session.inventory.containers_with("airflow")
    queries = [query for each in pipelines for query in (last_runs(each.dag_id), is_paused(each.dag_id))]
    try:
        asked = start("runs", partial(_ask, session, airflow[0], queries)) if airflow else None
        probes = [build_probe(each) for each in pipelines]
        streams = start("streams", partial(_streams, session))
        builds = _ask(session, session.inventory.container_of(ANALYTICS), probes)
        states = streams.result()
        answers = asked.result() if asked else [Result("", 0, b"[]") for _ in queries]
    except HomelabError as error:
        return [PipelineReport(each.name, Health(False, f"not known: {error.brief}")) for each in pipelines]
    now = datetime.now(UTC)
    return [
        PipelineReport(
            each.name,
            assess(each, Answers(build, runs, paused, states[each.name]), now, stream_of(session.inventory, each)),
        )
        for each, build, runs, paused in zip(pipelines, builds, answers[::2], answers[1::2], strict=True)
    ]


def _streams(session: Session) -> Mapping[str, Result]:
    """Return the states of the streams by pipeline; those of the others are empty."""
    inventory = session.inventory
    states = {each.name: Result("", 1, b"") for each in inventory.pipelines}
    streaming = [each for each in inventory.pipelines if stream_of(inventory, each)]
    if streaming:
        found = _ask(session, inventory.container_of(INGESTION), [stream_probe(each) for each in streaming])
        states |= {each.name: state for each, state in zip(streaming, found, strict=True)}
    return states


def _ask(session: Session, container: Container, probes: Sequence[str]) -> Sequence[Result]:
    commands, split_results = merge_queries(probes)
    with session.connect(container, _CONNECT_DEADLINE) as host:
        return split_results(host.batch(commands))
