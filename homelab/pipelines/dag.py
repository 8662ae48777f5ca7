"""The DAG that homelab generates for a pipeline without DAGs of its own."""

from __future__ import annotations

from homelab.model import Pipeline
from homelab.model.stages import stage_of
from homelab.pipeline_contract import EXIT
from homelab.render import render

LASTING = (EXIT.bad_input, EXIT.key_refused, EXIT.build_failed)  # exit statuses of errors that would occur again


def generated_dag(pipeline: Pipeline) -> bytes:
    """Return the file of a DAG with the pipeline's name, which runs its tasks in order."""
    return render(
        "pipelines/dag.py.j2",
        pipeline=pipeline,
        connections={command: stage_of(command) for command in pipeline.tasks},
        lasting=LASTING,
    )
