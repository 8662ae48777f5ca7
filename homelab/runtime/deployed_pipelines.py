"""The pipelines as they are deployed: their DAGs in Airflow, and their files in the container that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homelab.model import Inventory
from homelab.model.pipelines import BUILD
from homelab.pipeline_contract import DAG_ID, TASKS
from homelab.pipelines.layout import Layout
from homelab.services.analytics import PUBLISHED, as_analytics, read_data

WEATHER = "weather"


@dataclass(frozen=True, slots=True)
class DeployedPipeline:
    """A pipeline: its DAG with the tasks that come first, and the task that builds; its published file.

    `run` returns shell text that runs a command as the pipeline, `read_data` shell text that prints the end of a file
    of its folder of data.
    """

    name: str
    dag_id: str
    tasks: Sequence[str]
    build: str
    published: str
    run: Callable[[str], str]
    read_data: Callable[[str], str]


BUILT_IN = DeployedPipeline(
    WEATHER, DAG_ID, (TASKS.ingest, TASKS.build), TASKS.build, PUBLISHED, as_analytics, read_data
)


def deployed_pipeline(inventory: Inventory, name: str = WEATHER) -> DeployedPipeline:
    """Return a pipeline; its DAG has its name. Raises InputError for one that is not in the inventory."""
    if name == WEATHER:
        return BUILT_IN
    pipeline = inventory.pipeline(name)
    layout = Layout(pipeline)
    return DeployedPipeline(name, name, pipeline.tasks, BUILD, layout.published, layout.run, layout.read_data)
