"""The streaming ingestion of the weather: a service on the container of the ingestion, instead of runs by Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from homelab.host import Result
from homelab.model import Container, Inventory, Pipeline, ServiceContext, Step
from homelab.model.options import Duration
from homelab.model.stages import INGESTION
from homelab.model.weather_settings import Stream
from homelab.pipeline_contract import EXIT
from homelab.pipelines.layout import SHARED_VENV, Layout
from homelab.pipelines.pipeline_metrics import labelled
from homelab.pipelines.weather import require_script
from homelab.render import render
from homelab.steps import File, SystemdUnit

UNIT = "homelab-weather-stream.service"
_SCRIPT = "stream_weather.py"
_PROGRAM = "stream"
_ROUNDS = 3  # without a report, after which the stream counts as stopped, but not before _SLOWEST
_SLOWEST = timedelta(minutes=10)


def stream_of(inventory: Inventory, pipeline: Pipeline) -> Stream | None:
    """Return the stream of a pipeline; None if Airflow starts its ingestion."""
    return inventory.weather.stream if inventory.weather and pipeline.is_weather else None


def stream_units(inventory: Inventory, container: Container) -> Sequence[str]:
    """Return the units of the streams that a container runs."""
    runs = INGESTION in inventory.stages_on(container)
    return [UNIT for each in inventory.pipelines if runs and stream_of(inventory, each)]


def stream_steps(layout: Layout, part: str, triggers: Sequence[Step]) -> Iterator[Step]:
    """Yield the program and the unit of the stream; it restarts after a change of `triggers`.

    Raises InputError for a copy of the weather without the script.
    """
    require_script(layout.pipeline.folder, _SCRIPT, "deploy the stream", "script for it")
    words = f"{layout.venv}/bin/python -B {layout.root}/scripts/{_SCRIPT}"
    text = render("pipelines/command.j2", layout=layout, venv=SHARED_VENV, words=words, tolerated=None)
    program = File(layout.program(_PROGRAM), text, mode=0o755)
    unit = File(
        f"/etc/systemd/system/{UNIT}",
        render(
            "pipelines/homelab-stream.service.j2",
            program=program.path,
            bad_input=EXIT.bad_input,
            sandbox=layout.sandbox,
        ),
    )
    yield program
    yield unit
    yield SystemdUnit(UNIT, triggered_by=[*triggers, program, unit], settle=0, part=part)


def stream_metrics(context: ServiceContext) -> Mapping[str, str]:
    """Return the commands by name for the metrics of the streams that a container runs."""
    inventory = context.inventory
    if not stream_units(inventory, context.container):
        return {}
    streaming = [each for each in inventory.pipelines if stream_of(inventory, each)]
    return {f"stream-{each.name}": labelled(each.name, Layout(each).read_data("stream.prom")) for each in streaming}


def stream_probe(pipeline: Pipeline) -> str:
    """Return shell text that prints the state that the stream wrote."""
    return Layout(pipeline).read_data("stream.json")


def stream_problems(stream: Stream, answer: Result, now: datetime) -> Iterator[str]:
    """Yield the problems of a stream: no report, rows or cities that failed, no new row within `expected_every`."""
    logs = f"`homelab logs {UNIT.removesuffix('.service')}` shows the reason"
    if not answer.ok or not answer.text:
        yield f"the stream has not reported yet: {logs}"
        return
    state = json.loads(answer.text)
    reported = datetime.fromtimestamp(float(state["round"]), UTC)
    if now - reported > max(_SLOWEST, _ROUNDS * timedelta(seconds=stream.every.seconds)):
        yield f"the stream has not reported since {reported:%Y-%m-%d %H:%M:%S} UTC: {logs}"
        return
    if state["problem"]:
        yield f"the stream cannot store its rows: {state['problem']}; {int(state['spooled'])} rows wait in the spool"
    if state["failed"]:
        yield f"{int(state['failed'])} of {int(state['asked'])} cities failed in the last round of the stream"
    newest = datetime.fromtimestamp(float(state["newest_row"]), UTC)
    if now - newest > timedelta(seconds=Duration(stream.expected_every).seconds):
        yield f"late: newest row {newest:%Y-%m-%d %H:%M:%S} UTC, expected every {stream.expected_every}"
