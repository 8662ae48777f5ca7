"""The programs of `homelab ci check` on this machine: sqlfluff, and Airflow for the import of DAGs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from homelab.dev.install import install_locked
from homelab.paths import bundled_path
from homelab.progress import Progress
from homelab.render import render

_SETTINGS = {".sqlfluff": "", "pyproject.toml": "[tool.sqlfluff", "setup.cfg": "[sqlfluff", "tox.ini": "[sqlfluff"}


def lint(folder: Path, project: Path, root: Path, progress: Progress) -> str:
    """Return the findings of sqlfluff in the models of a dbt project; "" if there are none.

    The settings are the user's, between the project and `root`; without any, homelab's.
    """
    python = install_locked(folder, "sqlfluff", bundled_path("requirements/sqlfluff.txt"), "sqlfluff", progress)
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "sqlfluff.cfg")
        library = bundled_path("templates/ci/dbt_context")
        macros = project / "macros"
        config.write_bytes(render("ci/sqlfluff.j2", library=library, macros=macros if macros.is_dir() else None))
        options = [] if _has_settings(project, root) else ["--config", str(config)]
        paths = [str(path) for path in (project / "models", project / "snapshots", project / "tests") if path.is_dir()]
        program = str(python.with_name("sqlfluff"))
        return _output([program, "lint", "--disable-progress-bar", "--nocolor", *options, *paths]) if paths else ""


def import_dags(folder: Path, lock: bytes, dags: Path, progress: Progress) -> str:
    """Return the errors of Airflow's import of a folder of DAGs; "" if there are none."""
    path = folder / "airflow.lock"
    path.write_bytes(lock)
    python = install_locked(folder, "airflow", path, "Airflow", progress)
    with tempfile.TemporaryDirectory() as home:
        script = Path(home, "check_dags.py")
        # Without the metadata, DAGs that read variables and connections during their import are accepted.
        script.write_bytes(render("airflow/check_dags.j2", python=python, has_metadata=False))
        variables = {"AIRFLOW_HOME": home, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONDONTWRITEBYTECODE": "1"}
        return _output([str(python), str(script), str(dags), str(dags)], variables)


def _has_settings(project: Path, root: Path) -> bool:
    folders = [project, *project.parents]
    inside = folders[: folders.index(root) + 1] if root in folders else [project]
    files = ((folder / name, mark) for folder in inside for name, mark in _SETTINGS.items())
    return any(path.is_file() and mark in path.read_text(errors="replace") for path, mark in files)


def _output(words: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
    """Return the output of a failed program; "" if it succeeds."""
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() or f"status {done.returncode}" if done.returncode else ""
