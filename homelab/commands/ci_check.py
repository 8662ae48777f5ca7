"""`homelab ci check`: the inventory and the user's own pipelines, checked without containers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from homelab.dev import local_stack
from homelab.dev.check_tools import import_dags, lint
from homelab.model import Pipeline
from homelab.pipelines.installed import of_user
from homelab.runtime.lab_lock import lab_lock
from homelab.runtime.session import Session
from homelab.services.airflow import Airflow, airflow_of
from homelab.services.airflow_packages import venv_lock

_PYTEST_MISSING = "pytest is not installed next to homelab: `pip install pytest`"


@dataclass(frozen=True)
class Check:
    """One check of a pipeline, and its findings, empty if it passed."""

    pipeline: str
    name: str
    findings: str

    @property
    def passed(self) -> bool:
        """True without findings."""
        return not self.findings

    def __str__(self) -> str:
        return f"{self.pipeline}: {self.name} {'passed' if self.passed else f'failed{chr(10)}{self.findings}'}"


def check(session: Session) -> Sequence[Check]:
    """Check each pipeline of the user: models, DAGs, tests. Raises HomelabError if a program cannot be installed."""
    pipelines = of_user(session.inventory.pipelines)
    services = [each for container in session.inventory.containers for each in container.services.values()]
    own_dags = [each.dags for each in services if isinstance(each, Airflow) and each.dags]
    if not pipelines and not own_dags:
        return []
    folder = local_stack.folder_of(session.inventory.state_dir)
    local_stack.create(folder)
    with lab_lock(folder, "ci check"):
        found = [_import(session, "airflow", dags, folder) for dags in own_dags]
        return found + [each for pipeline in pipelines for each in _checks(session, pipeline, folder)]


def _checks(session: Session, pipeline: Pipeline, folder: Path) -> Iterator[Check]:
    name = pipeline.name
    if pipeline.has_dbt:
        with session.progress.step("dev", f"{name}: sqlfluff"):
            found = lint(folder, pipeline.folder / "dbt", session.inventory.path.parent, session.progress)
        yield Check(name, "sqlfluff", found)
    if pipeline.has_dags:
        yield _import(session, name, pipeline.folder / "dags", folder)
    if (tests := pipeline.folder / "tests").is_dir():
        with session.progress.step("dev", f"{name}: tests"):
            yield Check(name, "tests", _run_tests(tests))


def _import(session: Session, name: str, dags: Path, folder: Path) -> Check:
    """Import a folder of DAGs with Airflow's packages, and those that the inventory adds."""
    service = airflow_of(session.inventory)
    lock = venv_lock(service.lock, service.packages, session.inventory.path.parent)
    with session.progress.step("dev", f"{name}: import of the DAGs"):
        return Check(name, "import of the DAGs", import_dags(folder, lock, dags, session.progress))


def _run_tests(tests: Path) -> str:
    """Return the output of failed tests; "" if they pass."""
    if find_spec("pytest") is None:
        return _PYTEST_MISSING
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip() if done.returncode else ""
