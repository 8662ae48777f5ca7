"""The commands of the weather with a stream: a service fetches, and a build can be due after new rows."""

from __future__ import annotations

from dataclasses import replace

from homelab.inventory.section import Section
from homelab.model import Pipeline, Weather
from homelab.model.stages import BUILD_DUE, FETCH
from homelab.model.weather_settings import ON_DATA

_SCRIPT = "scripts/build_due.py"


def with_stream(pipeline: Pipeline, weather: Weather, section: Section) -> Pipeline:
    """Return the weather without the command that Airflow would start, and with the one for builds after new rows."""
    if weather.stream is None:
        return pipeline
    scripts = {command: script for command, script in pipeline.scripts.items() if command != FETCH}
    if weather.stream.build_every:
        if not (pipeline.folder / _SCRIPT).is_file():
            section.problem(f"`{ON_DATA}` needs {_SCRIPT}, which {pipeline.folder} does not have", "schedule")
        scripts[BUILD_DUE] = _SCRIPT
    return replace(pipeline, scripts=scripts)
