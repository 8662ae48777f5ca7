"""`homelab docs`: the dbt project's documentation, generated next to the warehouse and fetched."""

from __future__ import annotations

from homelab.errors import InputError
from homelab.host import check
from homelab.model.stages import ANALYTICS
from homelab.runtime.deployed_pipelines import DeployedPipeline
from homelab.runtime.session import Session

_DEADLINE = 900.0  # seconds


def fetch(session: Session, pipeline: DeployedPipeline) -> bytes:
    """Return the documentation of a pipeline, one self-contained HTML page.

    Raises HomelabError if dbt cannot generate it, InputError for a pipeline without a dbt project.
    """
    container = session.inventory.container_of(ANALYTICS)
    if not pipeline.docs:
        raise InputError(
            f"Cannot document the pipeline {pipeline.name}: it has no dbt project",
            "It has no dbt/dbt_project.yml.",
            "Name another pipeline: `homelab pipeline list`",
        )
    command = pipeline.run(f"{pipeline.docs} >&2 && cat docs.html")
    with session.connect(container) as host, session.progress.step(container.name, "dbt docs generate"):
        return check(host, command, "generate the documentation", timeout=_DEADLINE).stdout
