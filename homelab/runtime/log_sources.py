"""The logs of containers by name: journals of units, dbt's logs of pipelines, and the logs of Airflow's tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homelab.errors import InputError
from homelab.host import argv
from homelab.model import Container, Inventory, Pipeline
from homelab.model.inventory import WEATHER
from homelab.model.stages import ANALYTICS, INGESTION, stage_of
from homelab.pipelines.layout import Layout
from homelab.pipelines.stream import stream_units
from homelab.plan import select_containers
from homelab.runtime import log_reader
from homelab.services.airflow_environment import HOME
from homelab.services.airflow_platform import SANDBOX


@dataclass(frozen=True, slots=True)
class LogSelection:
    """The logs to show of one container; None and no pipelines omit a kind.

    An empty list of units is the whole journal, an empty list of DAGs is all DAGs. A DAG may be one of its tasks, such
    as `prices.fetch`.
    """

    units: Sequence[str] | None = None
    pipelines: Sequence[str] = ()
    dags: Sequence[str] | None = None

    def __bool__(self) -> bool:
        return self.units is not None or bool(self.pipelines) or self.dags is not None


def select_logs(inventory: Inventory, targets: Sequence[str]) -> Mapping[str, LogSelection]:
    """Return the logs to show by container. Raises InputError.

    Targets are names of containers, services, pipelines, and units as the lines show them. Containers restrict the
    place; all others restrict the content. A unit of no service needs its container.
    """
    names = [each for each in targets if each in {container.name for container in inventory.containers}]
    parts = [each for each in targets if each not in names]
    containers = select_containers(inventory, names)
    unknown = [part for part in parts if not any(_selection(inventory, each, [part]) for each in containers)]
    if unknown and not names:
        known = {name for each in containers for name in each.services} | {each.name for each in inventory.pipelines}
        raise InputError(
            f"Cannot show the logs of {unknown[0]}: it is neither a container, a service, a pipeline, nor a unit of a "
            "service",
            f"Services and pipelines: {', '.join(sorted(known))}.",
            "For another unit, name its container first: `homelab logs CONTAINER UNIT`",
        )
    found = {}
    for container in containers:
        chosen = _selection(inventory, container, parts)
        units = [*(chosen.units or ()), *unknown]
        whole = bool(names) and not parts  # of a container without units, the whole journal
        found[container.name] = LogSelection(units if units or whole else None, chosen.pipelines, chosen.dags)
    return {name: chosen for name, chosen in found.items() if chosen}


def units_of(inventory: Inventory, container: Container, parts: Sequence[str] = ()) -> list[str]:
    """Return the units of these services, pipelines and units of a container; all of them without parts."""
    owned = [(name, unit) for name, service in container.services.items() for unit in service.units()]
    owned += [(WEATHER, unit) for unit in stream_units(inventory, container)]
    return [
        unit
        for owner, unit in owned
        if not parts or owner in parts or unit in parts or unit.removesuffix(".service") in parts
    ]


def _selection(inventory: Inventory, container: Container, parts: Sequence[str]) -> LogSelection:
    """Return the logs of these services, pipelines and units of a container; all of its services without parts."""
    runs_dbt = ANALYTICS in inventory.stages_on(container)
    every = not parts or ANALYTICS in parts
    pipelines = [each.name for each in inventory.pipelines if every or {each.name, f"{each.name}.dbt"} & {*parts}]
    dags: list[str] | None = None
    if runners := [name for name, service in container.services.items() if service.starts_pipelines]:
        wanted = [name for each in inventory.pipelines for name in _task_logs(each, parts)]
        dags = [] if not parts or {*runners, "airflow"} & {*parts} else wanted or None
    return LogSelection(units_of(inventory, container, parts) or None, pipelines if runs_dbt else (), dags)


def _task_logs(pipeline: Pipeline, parts: Sequence[str]) -> Iterator[str]:
    """Yield the DAG of a pipeline, or its selected tasks; for `ingestion`, all tasks that it runs."""
    if pipeline.name in parts:
        yield pipeline.dag_id
    for command in pipeline.tasks:
        task = f"{pipeline.dag_id}.{pipeline.task(command)}"
        if task in parts or (INGESTION in parts and stage_of(command) == INGESTION):
            yield task


def file_sources(inventory: Inventory, chosen: LogSelection) -> Iterator[dict[str, Any]]:
    """Yield the sources of `log_reader` for the files of a selection, each with the user that may read it."""
    for pipeline in inventory.pipelines:
        if pipeline.name in chosen.pipelines:
            layout = Layout(pipeline)
            unit = f"{pipeline.name}.dbt"
            yield {"user": layout.sandbox.user, "folder": f"{layout.data}/logs", "unit": unit}
    if chosen.dags is not None:
        yield {"user": SANDBOX.user, "folder": f"{HOME}/logs", "dags": list(chosen.dags)}


def reader_command(sources: Sequence[Mapping[str, Any]], limits: Mapping[str, Any]) -> str:
    """Return the shell text that prints the lines of files as JSON; `limits` are the further keys of each source."""
    program = Path(log_reader.__file__).read_text()
    request = {"sources": [{**source, **limits} for source in sources]}
    return argv("/usr/bin/python3", "-I", "-c", program, json.dumps(request))
