"""`homelab pipeline run`: one run of the DAG."""

from __future__ import annotations

from homelab.runtime.pipeline_runs import Run, run_pipeline
from homelab.runtime.session import Session


def run(session: Session, name: str | None) -> Run:
    """Run a pipeline and wait for its end. Raises HomelabError if it fails or misses the deadline."""
    return run_pipeline(session, name)
