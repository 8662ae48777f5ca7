"""The pipelines in an export: a job on the pipeline's schedule, and the image with its scripts and models."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from homelab.errors import InputError
from homelab.kubernetes.database import CA_MOUNT, CA_VOLUME, object_name
from homelab.kubernetes.workloads import Claim, Image, Mount, Process, Resources, Retries, Volume, Workload
from homelab.local_files import read_within
from homelab.model import Inventory, Pipeline, ServiceContext
from homelab.model.stages import ANALYTICS, BUILD, CHECK, FETCH, stage_of
from homelab.paths import bundled_path
from homelab.pipeline_contract import EXIT
from homelab.pipelines.container_steps import (
    Limits,
    environment_text,
    fetches_weather,
    profiles_yml,
    program_words,
    secret_variables,
)
from homelab.pipelines.dag import LASTING
from homelab.pipelines.layout import EXTENSIONS, SHARED_SCRIPTS, SHARED_VENV, Layout
from homelab.pipelines.published_tables import project_files
from homelab.pipelines.weather import cities_path
from homelab.render import render
from homelab.services.lab_certificates import CA_FILE
from homelab.steps import Tree

API_KEY = "OPENWEATHER_API_KEY"  # the key in the Secret; its value is in a file of the user
PYTHON = "docker.io/library/python:3.12-slim-bookworm"
_USER = 10001
_DATA, _TEMPORARY = "data", "temporary"
# A fetch that stored a part of the rows does not stop the build; the check fails the run after it.
_TOLERANT = f'"$@" || {{ status=$?; [ $status -eq {EXIT.partial} ] || exit $status; }}'


def require_exportable(inventory: Inventory, pipeline: Pipeline) -> None:
    """Raise InputError if a pipeline uses a service that an export does not have; `inventory` has only its services."""
    weather = inventory.weather if pipeline.is_weather else None
    storage = inventory.object_storage(pipeline.name)
    if weather and weather.to == "broker":
        reason, help_ = "it stores its rows through the broker", "`to: postgres` under `weather:`"
    elif weather and weather.stream:
        reason, help_ = "a service fetches its rows continuously", '`schedule: "@hourly"` under `weather:`'
    elif storage is None and (pipeline.lake or (weather and weather.archive_months)):
        reason, help_ = "it keeps data in the object storage `s3`", "an `endpoint` of your own under `s3:`"
    elif pipeline.clickhouse:
        reason, help_ = "the service `clickhouse` builds its models", "`target: file` under `weather:`"
    elif pipeline.lock_error:
        reason, help_ = pipeline.lock_error, f"`homelab pipeline lock {pipeline.name}`"
    else:
        return
    raise InputError(
        f"Cannot export the pipeline {pipeline.name}: {reason}",
        "An export has PostgreSQL and the pipelines; the other services stay in their containers.",
        f"Use {help_}; an overlay can do that for the export alone (`--overlay`).",
    )


def pipeline_job(context: ServiceContext, pipeline: Pipeline, image: str, limits: Limits) -> Workload:
    """Return the job that runs the pipeline's tasks in order, as its DAG does."""
    layout, inventory = Layout(pipeline), context.inventory
    weather = inventory.weather if pipeline.is_weather else None
    schedule = weather.schedule if weather else pipeline.schedule
    tasks = pipeline.tasks
    mounts = tuple(_mounts(layout))
    return Workload(
        name=object_name(pipeline.name),
        kind="schedule",
        user=_USER,
        processes=tuple(
            Process(
                name=command,
                image=image,
                command=tuple(_words(layout, command)),
                environment=_environment(context, layout, command),
                secrets=_secrets(inventory, pipeline, command),
                mounts=mounts,
                folder=layout.data,
                resources=_resources(inventory, command),
            )
            for command in tasks
        ),
        volumes=tuple(_volumes(layout)),
        claims=(Claim(name=f"{object_name(pipeline.name)}-{_DATA}", size=_disk(inventory)),),
        files={"profiles.yml": profiles_yml(layout, limits).decode()} if pipeline.has_dbt else {},
        schedule=schedule or "",
        # As in Airflow: one further attempt, except after an error that would occur again.
        retries=Retries(attempts=2, seconds=int(pipeline.timeout.seconds) * len(tasks) * 2, lasting=LASTING),
    )


def _words(layout: Layout, command: str) -> Sequence[str]:
    words = shlex.split(program_words(layout, command))
    tolerant = command == FETCH and CHECK in layout.pipeline.commands
    return ["/bin/sh", "-c", _TOLERANT, command, *words] if tolerant else words


def _environment(context: ServiceContext, layout: Layout, command: str) -> Mapping[str, str]:
    """Return the variables of a command: those of pipeline.env, and those that its program and its unit set."""
    host = context.inventory.container_with("postgres").name
    text = environment_text(context, layout, [stage_of(command)], host, CA_FILE).decode()
    words = (word.partition("=") for word in shlex.split(text, comments=True) if "=" in word)
    return {
        "HOME": layout.data,
        "PATH": f"{SHARED_VENV}/bin:/usr/local/bin:/usr/bin:/bin",
        **{name: value for name, _, value in words},
    }


def _secrets(inventory: Inventory, pipeline: Pipeline, command: str) -> Mapping[str, str]:
    stages = [stage_of(command)]
    key = {"OPENWEATHER_API_KEY": API_KEY} if fetches_weather(pipeline, stages) else {}
    return {**key, **secret_variables(inventory, pipeline, stages)}


def _resources(inventory: Inventory, command: str) -> Resources:
    shape = inventory.container_of(stage_of(command)).shape
    return Resources(shape.cores, shape.memory)


def _disk(inventory: Inventory) -> int:
    """Return the size of a pipeline's storage in GiB: that of the disk on which its container builds."""
    return inventory.container_of(ANALYTICS).shape.disk


def _mounts(layout: Layout) -> Iterator[Mount]:
    yield Mount(volume=_DATA, path=layout.data, writable=True)
    yield Mount(volume=_TEMPORARY, path="/tmp", writable=True)  # noqa: S108 - of the pod alone
    yield CA_MOUNT
    if layout.pipeline.has_dbt:
        yield Mount(volume="config", path=f"{layout.root}/profiles.yml", file="profiles.yml")
    for name, file in layout.reads.items():
        yield Mount(volume=f"reads-{object_name(name)}", path=str(Path(file).parent))


def _volumes(layout: Layout) -> Iterator[Volume]:
    yield Volume(name=_DATA, kind="claim", source=f"{object_name(layout.pipeline.name)}-{_DATA}")
    yield Volume(name=_TEMPORARY, kind="scratch")
    yield CA_VOLUME
    if layout.pipeline.has_dbt:
        yield Volume(name="config", kind="config")
    for name in layout.reads:
        yield Volume(name=f"reads-{object_name(name)}", kind="claim", source=f"{object_name(name)}-{_DATA}")


def pipeline_image(inventory: Inventory, pipeline: Pipeline, registry: str) -> Image:
    """Return the image of a pipeline: the locked packages, the shared scripts, and its own scripts and models.

    Raises InputError for a file that cannot be read.
    """
    layout = Layout(pipeline)
    requirements = bundled_path("pipelines/shared/requirements")
    files = {
        "locks/uv.txt": (requirements / "uv.txt").read_bytes(),
        "locks/analytics.txt": (requirements / "analytics.txt").read_bytes(),
        **_below("shared", Tree.of("", bundled_path("pipelines/shared/scripts")).files),
        **_below("pipeline", _own_files(inventory, pipeline)),
    }
    if pipeline.requirements is not None:
        files["locks/pipeline.txt"] = pipeline.requirements
    files["Dockerfile"] = render(
        "kubernetes/Dockerfile.j2",
        base=PYTHON,
        layout=layout,
        user=_USER,
        venv=SHARED_VENV,
        shared=SHARED_SCRIPTS,
        extensions=EXTENSIONS,
        own_venv=layout.venv if pipeline.requirements is not None else "",
    )
    return Image(name=f"homelab-{object_name(pipeline.name)}", registry=registry, files=files)


def _below(folder: str, files: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def _own_files(inventory: Inventory, pipeline: Pipeline) -> Mapping[str, bytes]:
    folder = pipeline.folder
    files = dict[str, bytes]()
    if pipeline.scripts:
        files |= _below("scripts", Tree.of("", folder / "scripts", within=folder).files)
    if pipeline.has_dbt:
        files |= _below("dbt", project_files(folder / "dbt", pipeline.reads, within=folder))
    weather = inventory.weather if pipeline.is_weather else None
    if weather and weather.cities_file:
        name = Path(cities_path(Layout(pipeline), weather.cities_file)).name
        files[name] = read_within(weather.cities_file, None)
    return files


def left_out_commands(pipelines: Sequence[Pipeline]) -> Iterator[str]:
    """Yield the commands that no job runs: those besides fetch, build and check."""
    for pipeline in pipelines:
        for command in pipeline.commands:
            if command not in (FETCH, BUILD, CHECK):
                yield f"the command `{command}` of the pipeline `{pipeline.name}`"
