"""Verbs that write the folder of a pipeline next to the inventory."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer

from homelab.cli.global_options import add_verb, settings
from homelab.cli.results import echo


class Source(StrEnum):
    """The origins of the rows of a new pipeline."""

    csv = "csv"


def register(pipeline: typer.Typer) -> None:
    """Add these verbs."""
    for verb in (new, copy):
        add_verb(pipeline, verb)


def new(
    name: Annotated[str, typer.Argument(help="The pipeline's name: lower-case letters, digits and underscores.")],
    source: Annotated[Source, typer.Option("--from", help="The origin of its rows.")] = Source.csv,
) -> None:
    """Write a working pipeline with tests next to the inventory.

    Example:  homelab pipeline new prices --from csv
    """
    from homelab.commands.pipeline_new import new_pipeline

    for path in new_pipeline(settings.folder, name, source.value):
        echo(f"written: {os.path.relpath(path)}")
    echo(f"Add it to the inventory, then run `homelab deploy`:\n\npipelines:\n  {name}: {{path: pipelines/{name}}}")


def copy(name: Annotated[str, typer.Argument(help="A built-in pipeline.")] = "weather") -> None:
    """Copy the built-in pipeline next to the inventory, to change its scripts, models and DAG.

    The copy keeps the schema, the roles and the data.

    Example:  homelab pipeline copy weather
    """
    from homelab.commands.pipeline_copy import copy_pipeline

    target = copy_pipeline(settings.folder, name)
    echo(f"written: {os.path.relpath(target)}")
    lines = f"pipelines:\n  {name}:\n    path: pipelines/{name}"
    echo(f"Add its path to the inventory, then run `homelab deploy`:\n\n{lines}")
