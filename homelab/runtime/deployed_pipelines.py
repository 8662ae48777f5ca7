"""The pipelines as they are deployed: their DAGs in Airflow, and their files in the container that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homelab.host import argv
from homelab.model import Inventory
from homelab.model.inventory import WEATHER
from homelab.model.stages import BUILD
from homelab.pipelines.container_steps import program_words
from homelab.pipelines.layout import Layout


@dataclass(frozen=True, slots=True)
class DeployedPipeline:
    """A pipeline: its DAG with its tasks, and the task of the build; its published file.

    `rebuild` is shell text that builds everything again, `docs` that generates the page about the dbt project, if there
    is one. `run` returns shell text that runs a command as the pipeline, `read_data` shell text that prints the end of
    a file in its data folder.
    """

    name: str
    dag_id: str
    tasks: Sequence[str]
    build: str
    published: str
    rebuild: str
    docs: str
    run: Callable[[str], str]
    read_data: Callable[[str], str]


def deployed_pipeline(inventory: Inventory, name: str | None = None) -> DeployedPipeline:
    """Return a pipeline; without a name the only one, or the weather. Raises InputError for a missing one."""
    pipeline = inventory.chosen_pipeline(name)
    layout = Layout(pipeline)
    return DeployedPipeline(
        name=pipeline.name,
        dag_id=pipeline.dag_id,
        tasks=[pipeline.task(command) for command in pipeline.tasks],
        build=pipeline.task(BUILD),
        published=layout.published,
        rebuild=layout.run(f"{program_words(layout, BUILD)} --full-refresh"),
        docs=layout.docs if pipeline.has_dbt else "",
        run=layout.run,
        read_data=layout.read_data,
    )


def weather_layout(inventory: Inventory) -> Layout:
    """Return the paths of the weather. Raises InputError if the inventory does not have it."""
    return Layout(inventory.pipeline(WEATHER))


def weather_words(layout: Layout, script: str, *words: str) -> str:
    """Return shell text that runs one of the weather's scripts, for `Layout.run`."""
    return argv("python", f"{layout.root}/scripts/{script}", *words)
