"""Makes the pipelines' scripts importable: they are programs of another venv, not a package."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SHARED, WEATHER = ROOT / "pipelines" / "shared", ROOT / "pipelines" / "weather"
SCRIPTS, SHARED_SCRIPTS = WEATHER / "scripts", SHARED / "scripts"
SCHEMA, PROJECT = WEATHER / "schema.sql", WEATHER / "dbt"

sys.path += [str(folder) for folder in (SHARED_SCRIPTS, SCRIPTS) if str(folder) not in sys.path]
# As in the containers, for the scripts that tests and benchmarks start.
_PYTHONPATH = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if str(SHARED_SCRIPTS) not in _PYTHONPATH:
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, _PYTHONPATH), str(SHARED_SCRIPTS)])


def script(name: str) -> str:
    """Return the path of a script of the weather, or of one that all pipelines share."""
    return str(next(path for path in (SCRIPTS / name, SHARED_SCRIPTS / name) if path.exists()))


MANIFEST = yaml.safe_load((WEATHER / "pipeline.yaml").read_text())
DAG_ID: str = MANIFEST["dag"]
TASKS: dict[str, str] = MANIFEST["tasks"]  # command → task
IN_CONTAINER = "/opt/analytics-platform/pipelines/weather"
