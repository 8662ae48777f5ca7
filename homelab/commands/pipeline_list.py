"""`homelab pipeline list`: the pipelines of the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from homelab.model import Inventory


@dataclass(frozen=True, slots=True)
class ListedPipeline:
    """A pipeline: its origin, its schedule, and the commands that Airflow may start."""

    name: str
    origin: str
    schedule: str
    commands: str
    description: str


def pipelines(inventory: Inventory) -> Sequence[ListedPipeline]:
    """Return the built-in weather, if a service runs it, and the user's pipelines."""
    runs = any(service.runs_pipeline for _, service in inventory.services())
    weather = ListedPipeline(
        "weather", "homelab", inventory.weather.schedule, "", "OpenWeather's observations of cities"
    )
    own = [
        ListedPipeline(
            pipeline.name,
            str(pipeline.folder),
            pipeline.schedule or "",
            " ".join(pipeline.commands),
            pipeline.description,
        )
        for pipeline in inventory.pipelines
    ]
    return [*([weather] if runs else []), *own]
