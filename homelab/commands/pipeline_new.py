"""`homelab pipeline new`: write a working example of a pipeline next to the inventory."""

from __future__ import annotations

import os
from pathlib import Path

from homelab.errors import InputError
from homelab.inventory.pipelines_section import name_error
from homelab.local_files import write_new
from homelab.render import render

FOLDER = "pipelines"
_FILES = {
    "pipeline.yaml": "pipeline.yaml.j2",
    "schema.sql": "schema.sql.j2",
    "scripts/fetch.py": "scripts/fetch_{source}.py.j2",
    "dbt/dbt_project.yml": "dbt/dbt_project.yml.j2",
    "dbt/models/sources.yml": "dbt/models/sources.yml.j2",
    "dbt/models/{name}_daily.sql": "dbt/models/daily.sql.j2",
    "dbt/models/{name}_daily.yml": "dbt/models/daily.yml.j2",
    "tests/test_fetch.py": "tests/test_fetch_{source}.py.j2",
}
# Further files by origin of the rows.
_OF_ORIGIN = {
    "csv": {"scripts/{name}.csv": "scripts/readings.csv.j2"},
    "api": {"tests/answer.json": "tests/answer.json.j2"},
    "postgres": {},
}


def new_pipeline(folder: Path, name: str, source: str = "csv") -> list[Path]:
    """Write a pipeline into the inventory's folder; return the paths of its files. `source` is csv, api or postgres.

    Raises InputError for a name that it cannot have; overwrites nothing.
    """
    if error := name_error(name, {}):
        raise InputError(f"Cannot create pipeline {name}: {error}", "", "Choose a name such as prices.")
    root = folder / FOLDER / name
    action = f"create pipeline {name}"
    if os.path.lexists(root):
        raise InputError(f"Cannot {action}: {root} already exists", "", "Choose another name.")
    values = {"name": name, "source": source}
    files = {**_FILES, **_OF_ORIGIN[source]}
    texts = {
        root / path.format(**values): render(f"new/pipeline/{template.format(**values)}", **values)
        for path, template in files.items()
    }
    write_new(texts, action)
    return list(texts)
