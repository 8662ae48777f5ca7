"""Samples of the lab for a live view: containers, units, pipelines, PostgreSQL, and the last log lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import Any

from homelab.errors import HomelabError
from homelab.host import UNREADABLE, Result, argv
from homelab.model import Container, Inventory, Pipeline
from homelab.model.stages import ANALYTICS, INGESTION
from homelab.model.weather_settings import Stream
from homelab.pipelines.layout import Layout
from homelab.pipelines.pipeline_health import Answers, assess
from homelab.pipelines.stream import stream_of, stream_probe
from homelab.runtime.concurrency import run_all, start
from homelab.runtime.connections import Connection
from homelab.runtime.container_states import ContainerState, container_states
from homelab.runtime.container_usage import USAGE, ContainerUsage
from homelab.runtime.database_activity import ACTIVITY, DatabaseActivity
from homelab.runtime.journals import FIELDS, LogLine, parse_line
from homelab.runtime.log_sources import units_of
from homelab.runtime.session import Session
from homelab.runtime.usage_history import HistoryRecorder, UsageHistory
from homelab.services.airflow_metadata import is_paused, last_runs
from homelab.steps.queries import merge_queries

_CONNECT_DEADLINE = 3.0  # seconds
_LINES = 60  # of each container's journal
# PostgreSQL records each connection, those of the samples included.
_CONNECTIONS = re.compile(r"LOG:  connection (received|authenticated|authorized): ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSample:
    """A container: `cpu` is the use of its cores from 0 to 1, sizes in bytes; None: unknown.

    With a `problem`, the container does not answer over SSH: the values are those of Proxmox.
    """

    name: str
    status: str
    cores: int = 0
    cpu: float | None = None
    memory: int | None = None
    memory_total: int = 0
    disk: int | None = None
    disk_total: int = 0
    units: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSample:
    """A pipeline: the state and the start of its newest run, and the end of its newest build.

    Times are ISO 8601, "" without one; `age` is the age of the build in seconds.
    """

    name: str
    healthy: bool
    summary: str
    run: str = ""
    started: str = ""
    built: str = ""
    age: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabSample:
    """The lab at one moment; `problem` gives the reason if Proxmox does not answer."""

    lab: str
    time: datetime
    containers: Sequence[ContainerSample]
    pipelines: Sequence[PipelineSample]
    database: DatabaseActivity | None
    history: UsageHistory
    logs: Sequence[LogLine]
    problem: str = ""


class Sampler:
    """A source of samples of a lab, over connections that stay open until `close`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._containers = {each.name: _ContainerReader(session, each) for each in session.inventory.containers}
        self._history = HistoryRecorder(datetime.now())

    def close(self) -> None:
        """Disconnect from all containers."""
        for reader in self._containers.values():
            reader.close()

    def sample(self) -> LabSample:
        """Read Proxmox and all containers in parallel. A failed part does not hide the others."""
        inventory, now = self._session.inventory, datetime.now(UTC)
        readers, pipelines = self._containers, inventory.pipelines
        further = {name: self._further(reader.container) for name, reader in readers.items()}
        asked = start("proxmox", partial(_states, inventory))
        found = run_all({name: partial(readers[name].read, further[name]) for name in readers})
        answers = {name: future.result() for name, future in found.items()}
        known, problem = asked.result()
        samples = [readers[name].sample(known.get(name), answers[name]) for name in readers]
        parts = {key: value for each in answers.values() for key, value in each.further.items()}
        activity = DatabaseActivity.parse(parts["activity"]) if "activity" in parts else None
        self._history.answer([parts[key] for key in sorted(parts) if key.startswith("history")])
        self._record(samples, activity)
        return LabSample(
            lab=inventory.lab,
            time=now,
            containers=samples,
            pipelines=[_pipeline(each, parts, now, stream_of(inventory, each)) for each in pipelines],
            database=activity,
            history=self._history.history(),
            logs=sorted(line for each in answers.values() for line in each.lines),
            problem=problem,
        )

    def _further(self, container: Container) -> Mapping[str, str]:
        """Return the probes by name that belong to the services of a container."""
        pipelines, probes = self._session.inventory.pipelines, dict[str, str]()
        if "postgres" in container.services:
            probes["activity"] = ACTIVITY
        if "airflow" in container.services:
            probes |= {f"runs {each.name}": last_runs(each.dag_id) for each in pipelines}
            probes |= {f"paused {each.name}": is_paused(each.dag_id) for each in pipelines}
        if ANALYTICS in self._session.inventory.stages_on(container):
            probes |= {f"build {each.name}": Layout(each).read_data("last_build.json") for each in pipelines}
        if INGESTION in self._session.inventory.stages_on(container):
            streaming = [each for each in pipelines if stream_of(self._session.inventory, each)]
            probes |= {f"stream {each.name}": stream_probe(each) for each in streaming}
        if "prometheus" in container.services:
            probes |= {f"history {number}": probe for number, probe in enumerate(self._history.probes())}
        return probes

    def _record(self, samples: Sequence[ContainerSample], activity: DatabaseActivity | None) -> None:
        values: dict[tuple[str, str], float] = {}
        for each in samples:
            if each.cpu is not None:
                values["cpu", each.name] = each.cpu
            if each.memory is not None and each.memory_total:
                values["memory", each.name] = each.memory / each.memory_total
        if activity:
            values["connections", ""] = activity.connections
        self._history.record(values)


def _states(inventory: Inventory) -> tuple[Mapping[str, ContainerState], str]:
    """Return the states on Proxmox by container, and the reason if it does not answer."""
    try:
        return {state.name: state for state in container_states(inventory)[0]}, ""
    except HomelabError as error:
        return {}, error.brief


@dataclass(frozen=True, slots=True)
class _Inside:
    """The answers of a container, and the reason if it does not answer."""

    usage: ContainerUsage | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[LogLine] = ()
    further: Mapping[str, Result] = field(default_factory=dict)
    problem: str = ""


class _ContainerReader:
    """A reader of one container, over a connection that stays open."""

    def __init__(self, session: Session, container: Container) -> None:
        self.container, self._session = container, session
        self._connection: Connection | None = None
        self._before: ContainerUsage | None = None
        self._units = units_of(session.inventory, container)
        words = ["--no-pager", "--quiet", f"--lines={_LINES}", f"--output-fields={','.join(FIELDS)}"]
        self._journal = argv("journalctl", "--output=json", *words, *(f"--unit={unit}" for unit in self._units))

    def close(self) -> None:
        """Disconnect."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def read(self, further: Mapping[str, str]) -> _Inside:
        """Run the probes; an error is a part of the result."""
        units = argv("systemctl", "is-active", *self._units) if self._units else "true"
        try:
            if self._connection is None:
                self._connection = self._session.connect(self.container, _CONNECT_DEADLINE)
            commands, split_results = merge_queries([USAGE, units, self._journal, *further.values()])
            usage, states, journal, *others = split_results(self._connection.batch(commands))
        except HomelabError as error:
            self.close()
            return _Inside(problem=error.brief)
        lines = (parse_line(self.container.name, line) for line in journal.text.split("\n"))
        found = zip_longest(self._units, states.text.splitlines()[: len(self._units)], fillvalue="unknown")
        return _Inside(
            ContainerUsage.parse(usage),
            dict(found),
            [line for line in lines if line and not _CONNECTIONS.search(line.text)],
            dict(zip(further, others, strict=True)),
        )

    def sample(self, state: ContainerState | None, inside: _Inside) -> ContainerSample:
        """Return the values from inside; those of Proxmox for unknown ones."""
        cores = (state.cores if state else 0) or self.container.shape.cores
        usage, before = inside.usage, self._before
        self._before = usage
        running = state.running if state else not inside.problem
        cpu = usage.cpu_since(before, cores) if usage else None
        return ContainerSample(
            name=self.container.name,
            status=state.status if state else "unknown" if inside.problem else "running",
            cores=cores,
            cpu=cpu if cpu is not None else state.cpu if state and running else None,
            memory=usage.memory if usage else state.memory_used if state and running else None,
            memory_total=usage.memory_total if usage else state.memory_total if state else 0,
            disk=usage.disk if usage else state.disk_used if state else None,
            disk_total=usage.disk_total if usage else state.disk_total if state else 0,
            units=inside.units,
            problem=inside.problem if running else "",
        )


def _pipeline(pipeline: Pipeline, parts: Mapping[str, Result], now: datetime, stream: Stream | None) -> PipelineSample:
    nothing = Result("", 1)
    build = parts.get(f"build {pipeline.name}", nothing)
    runs = parts.get(f"runs {pipeline.name}", nothing)
    paused = parts.get(f"paused {pipeline.name}", nothing)
    report, recent = _json(build), _json(runs)
    # The weather's own report reads its marts, which takes a second.
    shown = Result("", 0, json.dumps({"last_build": report or None}).encode()) if pipeline.is_weather else build
    state = parts.get(f"stream {pipeline.name}", nothing)
    health = assess(pipeline, Answers(shown, runs, paused, state), now, stream)
    try:
        newest = recent[0] if recent else {}
        built = str(report["finished"]) if report else ""
        return PipelineSample(
            name=pipeline.name,
            healthy=health.healthy,
            summary=health.summary,
            run=str(newest.get("state", "")),
            started=str(newest.get("start_date") or ""),
            built=built,
            age=(now - datetime.fromisoformat(built)).total_seconds() if built else None,
        )
    except UNREADABLE:
        return PipelineSample(name=pipeline.name, healthy=False, summary="its report has an unexpected format")


def _json(answer: Result) -> Any:
    """Return the JSON of an answer; None if it has none."""
    try:
        return json.loads(answer.text) if answer.ok and answer.text else None
    except UNREADABLE:
        return None
