"""The health of Airflow: its processes, the DAG of the weather, and its last runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from homelab.host import Result, argv
from homelab.model import Health
from homelab.pipeline_contract import DAG_ID
from homelab.services.airflow_metadata import last_runs, obstacles


def probes(health_url: str, units: Sequence[str]) -> Sequence[str]:
    """Return the commands for its health report, its last runs, its obstacles to runs, and its units' starts."""
    script = f"import urllib.request as u; print(u.urlopen({health_url!r}, timeout=5).read().decode())"
    starts = argv("systemctl", "show", "--timestamp=unix", "--property=Id,ActiveEnterTimestamp", *units)
    return (argv("/usr/bin/python3", "-c", script), last_runs(DAG_ID), obstacles(DAG_ID), starts)


def assess(answers: Sequence[Result]) -> Health:
    """Return healthy if its processes have a heartbeat, the DAG can run, and its last finished run succeeded."""
    report, runs, hindered, starts = answers
    if not report.ok:
        return Health(False, "does not answer")
    if not runs.ok or not hindered.ok:
        return Health(False, "cannot read its metadata: PostgreSQL does not answer")
    processes = _processes(json.loads(report.text), starts.text)
    recent = json.loads(runs.text)
    finished = next((run for run in recent if run["state"] in ("success", "failed")), None)
    outcome = f"last run {finished['state']} at {finished['end_date'][:19]}" if finished else "no run yet"
    ready = all(status == "healthy" for status in processes.values())
    reasons = json.loads(hindered.text)
    if finished and finished["state"] == "failed":
        tasks = f" ({finished['failed_tasks']})" if finished.get("failed_tasks") else ""
        reasons.append(f"{outcome}{tasks}: `homelab pipeline run` repeats it and shows the message")
    states = ", ".join(f"{name} {status}" for name, status in processes.items())
    return Health(
        ready and not reasons,
        "; ".join([states, *(reasons or [outcome])]),
        {"processes": processes, "last_runs": recent},
        ready,
    )


def _processes(report: Mapping[str, Any], starts: str) -> dict[str, str]:
    """Return the state of each process: the one in the report, or `starting` until its first heartbeat after its start.

    Airflow counts a heartbeat for 30 seconds, also that of an earlier process.
    """
    found = {name: part for name, part in report.items() if part.get("status")}
    started = {unit: int(second) for unit, second in re.findall(r"Id=(\S+)\nActiveEnterTimestamp=@(\d+)", starts)}
    states = {}
    for name, part in found.items():
        beat, start = part.get(f"latest_{name}_heartbeat"), started.get(f"airflow-{name.replace('_', '-')}.service", 0)
        starting = beat and datetime.fromisoformat(beat).timestamp() < start
        states[name] = "starting" if starting else part["status"]
    return states
