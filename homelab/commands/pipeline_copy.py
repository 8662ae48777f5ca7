"""`homelab pipeline copy`: copy the built-in pipeline next to the inventory."""

from __future__ import annotations

import os
from pathlib import Path

from homelab.errors import InputError
from homelab.local_files import files_below, write_new
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
    action = f"copy the pipeline {name}"
    if os.path.lexists(target):
        raise InputError(f"Cannot {action}: {target} already exists", "", "Move this folder away, then copy again.")
    files = files_below(BUILT_IN, ignored=_LEFT_OUT.__contains__)
    write_new({target / path.relative_to(BUILT_IN): path.read_bytes() for path in files}, action)
    return target
