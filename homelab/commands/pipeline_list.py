"""`homelab pipeline list`: the pipelines of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model import Inventory, Pipeline, Weather
from homelab.pipelines.weather import BUILT_IN


@dataclass(frozen=True, slots=True)
class ListedPipeline:
    """A pipeline: its origin, its schedule, and the commands that Airflow may start."""

    name: str
    origin: str
    schedule: str
    commands: str
    description: str


def pipelines(inventory: Inventory) -> Sequence[ListedPipeline]:
    """Return the pipelines of the inventory, the weather first."""
    return [
        ListedPipeline(
            pipeline.name,
            "homelab" if pipeline.folder == BUILT_IN else str(pipeline.folder),
            _schedule(pipeline, inventory.weather),
            " ".join(pipeline.commands),
            pipeline.description,
        )
        for pipeline in inventory.pipelines
    ]


def _schedule(pipeline: Pipeline, weather: Weather | None) -> str:
    return weather.shown_schedule if weather and pipeline.is_weather else pipeline.schedule or ""
