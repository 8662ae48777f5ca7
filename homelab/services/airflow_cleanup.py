"""The removal of Airflow's runs and logs after their retention, by a timer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from homelab.model import Step
from homelab.model.options import Duration
from homelab.render import render
from homelab.sandbox import Sandbox
from homelab.steps import File, SystemdUnit

TIMER = "airflow-cleanup.timer"
_SCRIPT = "/usr/local/sbin/homelab-airflow-cleanup"
_PROCESS_LOGS = ("dag_processor", "dag_processor_manager", "scheduler")
_PROCESS_RETENTION = Duration("7d")
# Tables with history; those of the tasks follow from `dag_run`. Without `dag`: after months in which the stack was off,
# no DAG was parsed lately, and Airflow would forget which ones are paused.
_TABLES = {
    "3.3": (
        "asset_event",
        "callback",
        "dag_run",
        "dag_version",
        "job",
        "log",
        "revoked_token",
        "session",
        "task_reschedule",
        "trigger",
    ),
    "2.11": (
        "callback_request",
        "dag_run",
        "dataset_event",
        "job",
        "log",
        "session",
        "sla_miss",
        "task_fail",
        "task_reschedule",
        "trigger",
    ),
}
_OPTIONS = {"3.3": " --error-on-cleanup-failure", "2.11": ""}  # 2.11 always succeeds


def old_rows(series: str, venv: str) -> str:
    """Return the command that removes old rows of the metadata, for the script with its variable `before`."""
    return (
        f"{venv}/bin/airflow db clean --tables {','.join(_TABLES[series])} "
        f'--clean-before-timestamp "$before" --skip-archive --yes{_OPTIONS[series]}'
    )


def cleanup(
    retention: Duration, sandbox: Sandbox, triggered_by: Sequence[Step], rows: Sequence[str] = ()
) -> Iterator[Step]:
    """Yield the script, its unit, and the timer; `triggered_by` are the steps that stop Airflow's units.

    `rows` are the commands that remove rows of databases.
    """
    text = render(
        "airflow/cleanup.j2",
        retention=retention,
        logs=f"{sandbox.writable[0]}/logs",
        process_logs=_PROCESS_LOGS,
        process_minutes=int(_PROCESS_RETENTION.seconds // 60),
        rows=rows,
    )
    yield File(_SCRIPT, text, mode=0o755)
    yield File(
        "/etc/systemd/system/airflow-cleanup.service",
        render("airflow/airflow-cleanup.service.j2", script=_SCRIPT, sandbox=sandbox),
    )
    timer = File(f"/etc/systemd/system/{TIMER}", render("airflow/airflow-cleanup.timer.j2"))
    yield timer
    yield SystemdUnit(TIMER, triggered_by=[timer, *triggered_by], settle=0)
