"""`homelab pipeline copy`: copy the built-in pipeline next to the inventory."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns

from homelab.errors import InputError
from homelab.model.inventory import WEATHER
from homelab.pipelines.weather import BUILT_IN

FOLDER = "pipelines"
_LEFT_OUT = ("schema.sql", "__pycache__", "target", "logs")  # homelab makes the tables of `raw`, also for a copy


def copy_pipeline(folder: Path, name: str) -> Path:
    """Copy a built-in pipeline into the inventory's folder; return the new folder.

    Raises InputError for a name that homelab does not bring along; overwrites nothing.
    """
    if name != WEATHER:
        raise InputError(
            f"Cannot copy the pipeline {name}: it is not built in",
            f"The built-in pipeline is {WEATHER}.",
            f"`homelab pipeline new {name}` writes an example.",
        )
    target = folder / FOLDER / name
    if target.exists():
        raise InputError(
            f"Cannot copy the pipeline {name}: {target} already exists", "", "Move this folder away, then copy again."
        )
    copytree(BUILT_IN, target, ignore=ignore_patterns(*_LEFT_OUT))
    return target
