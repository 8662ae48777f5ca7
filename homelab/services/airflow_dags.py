"""Airflow's DAG bundles: one folder for each origin of DAGs, with files that Airflow can import.

On Airflow 2.11, which has no bundles, they are subfolders of its DAG folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from homelab.host import argv
from homelab.local_files import files_below, read_within
from homelab.model import Pipeline, Step
from homelab.pipelines.dag import generated_dag
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.steps import Directory, File, Tree

ROOT = "/opt/airflow/bundles"
USER = "user"
PYTHON_PATH = "/opt/airflow/python"
_CHECK = "/usr/local/sbin/homelab-airflow-check-dags"
_REFRESH = 10  # seconds until Airflow finds new and removed files
_IGNORED = "__pycache__"
_HIDDEN = (".airflowignore",)  # the hidden files that are copied


@dataclass(frozen=True, slots=True)
class DagBundles:
    """The bundles of one Airflow, by their names; `python` is the interpreter of its venv.

    On a worker, which has no metadata, DAGs that read a variable or a connection during their import are not checked.
    """

    names: Sequence[str]
    sandbox: Sandbox
    python: str
    has_metadata: bool = True

    def config_list(self) -> str:
        """Return the value of Airflow 3's setting `dag_bundle_config_list`."""
        classpath = "airflow.dag_processing.bundles.local.LocalDagBundle"
        return json.dumps(
            [
                {"name": name, "classpath": classpath, "kwargs": {"path": folder(name), "refresh_interval": _REFRESH}}
                for name in self.names
            ]
        )

    def setup(self, *, subfolders: bool) -> Iterator[Step]:
        """Yield the folder of all bundles and the program that checks them; `subfolders` if Airflow has no bundles."""
        yield Directory(ROOT)
        yield File(_CHECK, self._check(), mode=0o755)
        if subfolders:
            yield File(f"{ROOT}/.airflowignore", b"^[^/]+\\.(new|old)$\n")  # of a folder that is being replaced
            yield Directory(PYTHON_PATH)
            settings = render("airflow/local_settings.j2", folders=[folder(name) for name in self.names])
            yield File(f"{PYTHON_PATH}/airflow_local_settings.py", settings)

    def _check(self) -> bytes:
        return render("airflow/check_dags.j2", python=self.python, has_metadata=self.has_metadata)

    def tree(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        taken: Sequence[str] = (),
        part: str = "",
        triggered_by: Sequence[Step] = (),
    ) -> Tree:
        """Return the step for the files of a bundle, which Airflow imports before they replace the earlier ones.

        `taken` are DAG ids that the bundle must not use.
        """
        check = f'{argv(self.sandbox.program, self.python, _CHECK)} "$new" {quote(folder(name))}'
        return Tree(folder(name), files, " ".join([check, *map(quote, taken)]), triggered_by, part)


def folder(bundle: str) -> str:
    """Return the folder of a bundle in the container."""
    return f"{ROOT}/{bundle}"


def files_of(source: Path, within: Path | None = None) -> Mapping[str, bytes]:
    """Return the files of a folder of the user, without compiled and hidden ones. Raises as `files_below` does."""
    files = files_below(source, within, _is_left_out)
    return {str(path.relative_to(source)): read_within(path, within) for path in files}


def files_of_pipeline(pipeline: Pipeline) -> Mapping[str, bytes]:
    """Return the DAGs of a pipeline, or the one that homelab generates. Raises as `files_below` does."""
    if pipeline.has_dags:
        return files_of(pipeline.folder / "dags", pipeline.folder)
    return {f"{pipeline.name}.py": generated_dag(pipeline)}


def _is_left_out(name: str) -> bool:
    return name == _IGNORED or (name.startswith(".") and name not in _HIDDEN) or name.endswith(".pyc")
