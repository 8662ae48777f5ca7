"""The pipelines as they are deployed: their DAGs in Airflow, and their files in the container that runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homelab.host import argv
from homelab.model import Inventory
from homelab.model.pipelines import BUILD
from homelab.pipeline_contract import DAG_ID, TASKS
from homelab.pipelines.container_steps import build_command
from homelab.pipelines.layout import PLATFORM, SHARED_SCRIPTS, Layout
from homelab.services.analytics import PROJECT, PUBLISHED, SCRIPTS, as_analytics, read_data

WEATHER = "weather"


@dataclass(frozen=True, slots=True)
class DeployedPipeline:
    """A pipeline: its DAG with the tasks before the build, and the build itself; its published file.

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


def _docs(project: str, profiles: str, data: str, *words: str) -> str:
    folders = ("--project", project, "--profiles", profiles, "--data", data)
    return argv("python", f"{SHARED_SCRIPTS}/dbt_docs.py", *folders, *words)


BUILT_IN = DeployedPipeline(
    name=WEATHER,
    dag_id=DAG_ID,
    tasks=(TASKS.ingest, TASKS.build),
    build=TASKS.build,
    published=PUBLISHED,
    rebuild=as_analytics(argv("python", f"{SCRIPTS}/dbt_build.py", "--project", PROJECT, "--full-refresh")),
    docs=_docs(PROJECT, f"{PLATFORM}/dbt", f"{PLATFORM}/data"),
    run=as_analytics,
    read_data=read_data,
)


def deployed_pipeline(inventory: Inventory, name: str = WEATHER) -> DeployedPipeline:
    """Return a pipeline; its DAG has its name. Raises InputError for one that is not in the inventory."""
    if name == WEATHER:
        return BUILT_IN
    pipeline = inventory.pipeline(name)
    layout = Layout(pipeline)
    return DeployedPipeline(
        name=name,
        dag_id=name,
        tasks=pipeline.tasks,
        build=BUILD,
        published=layout.published,
        rebuild=layout.run(f"{build_command(layout)} --full-refresh"),
        docs=_docs(layout.project, layout.root, layout.data, "--profile", name) if pipeline.has_dbt else "",
        run=layout.run,
        read_data=layout.read_data,
    )
