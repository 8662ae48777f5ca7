"""`homelab pipeline rebuild`: build the marts again from all raw observations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

from homelab.host import check, expected_format
from homelab.model.stages import ANALYTICS
from homelab.runtime.deployed_pipelines import deployed_pipeline
from homelab.runtime.job_progress import DbtLog, run_with_progress
from homelab.runtime.session import Session

_DEADLINE = 4 * 3600.0  # seconds; it reads the whole history


@dataclass(frozen=True)
class Build:
    """A successful build of the marts."""

    models: int
    tests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.models} models built, {self.tests} tests passed, published after {self.seconds:.0f} s"


def rebuild(session: Session, name: str | None) -> Build:
    """Rebuild and publish the marts of a pipeline. Raises HomelabError if a model or a test fails."""
    pipeline = deployed_pipeline(session.inventory, name)
    container = session.inventory.container_of(ANALYTICS)
    with (
        session.connect(container) as host,
        session.progress.step(container.name, "dbt build --full-refresh") as report,
    ):
        job = partial(check, host, pipeline.rebuild, "rebuilding the marts", timeout=_DEADLINE)
        result = run_with_progress(job, DbtLog(host, pipeline.read_data), report)
    with expected_format(container.name, "read the outcome of the build"):
        outcome = json.loads(result.text.splitlines()[-1])
        return Build(outcome["models_built"], outcome["tests_passed"], outcome["seconds"])
