"""The messages of failed pipeline tasks: those of the scripts and of dbt, not Airflow's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from homelab.host import UNREADABLE, Host
from homelab.pipelines.build_report import failed_nodes
from homelab.runtime.deployed_pipelines import DeployedPipeline
from homelab.services.airflow_environment import HOME
from homelab.services.airflow_platform import SANDBOX

_LINES = 15  # of a task's log
_PROBLEMS = 5  # of a build
# A line of the SSH hook in the log of Airflow 2.11: its warnings are the standard error of the command.
_OLD_LINE = re.compile(r"\] \{ssh\.py:\d+\} WARNING - (.*)")


def task_message(
    logs: Sequence[Host], analytics: Host, pipeline: DeployedPipeline, run_id: str, task: str, attempt: int
) -> str:
    """Return the message of a failed attempt of a task; "" if neither its report nor its log has one.

    `logs` are the containers in which tasks run, one of which has the log.
    """
    if task == pipeline.build and (found := build_problems(analytics.run(pipeline.read_data("last_build.json")).text)):
        return found
    log = f"{HOME}/logs/dag_id={pipeline.dag_id}/run_id={run_id}/task_id={task}/attempt={attempt}.log"
    text = next(filter(None, (host.run(SANDBOX.read(log)).text for host in logs)), "")
    return "\n".join([*_standard_error(text)][-_LINES:])


def build_problems(report: str) -> str:
    """Return the failed models and tests of a build's report with their messages; "" if it did not fail."""
    try:
        found = json.loads(report)
        if found["status"] == "success":
            return ""
        return "\n".join(failed_nodes(found)[:_PROBLEMS])
    except UNREADABLE:
        return ""


def _standard_error(log: str) -> Iterator[str]:
    """Yield the lines that a command has written to standard error, from the log of its task."""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            if old := _OLD_LINE.search(line):
                yield old[1]
            continue
        if isinstance(entry, dict) and entry.get("level") == "warning" and "ssh" in str(entry.get("logger", "")):
            yield str(entry.get("event", ""))
