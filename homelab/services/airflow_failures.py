"""The error messages of failed tasks in Airflow, as metrics."""

from __future__ import annotations

from homelab.paths import bundled_path
from homelab.sandbox import Sandbox
from homelab.services.airflow_metadata import in_metadata
from homelab.steps import File

_PROGRAM = "/usr/local/sbin/homelab-airflow-failed-tasks"
_FAILED = """
with last as (
    select distinct on (dag_id) dag_id, run_id, state from dag_run
    where state in ('success', 'failed') and end_date is not null order by dag_id, end_date desc
)
select coalesce(json_agg(json_build_array(dag_id, run_id, task_id)), '[]')
from last join task_instance as task using (dag_id, run_id) where last.state = 'failed' and task.state = 'failed'
"""


def failed_tasks_program() -> File:
    """Return the step for the program that reads the logs."""
    return File(_PROGRAM, bundled_path("templates/airflow/failed_tasks.py").read_bytes(), mode=0o755)


def failed_tasks(sandbox: Sandbox, logs: str) -> str:
    """Return shell text that prints a metric for each failed task of the last runs, with its error message.

    The DAGs write the logs: the program reads them with the privileges of their user.
    """
    return f"({in_metadata(' '.join(_FAILED.split()))}) | {sandbox.as_user(_PROGRAM, logs)}"
