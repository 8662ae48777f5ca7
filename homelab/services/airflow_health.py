"""The health of Airflow: its processes, and the DAGs that it cannot import."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from homelab.host import Result, argv
from homelab.model import Health
from homelab.services.airflow_metadata import import_errors


def report(url: str, ca_file: str = "", *, loopback: bool = False) -> str:
    """Return the command that prints the health report; `ca_file` verifies the certificate of an https address.

    The loopback address is in no certificate.
    """
    script = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
    if ca_file:
        unnamed = "c.check_hostname = False; " if loopback else ""
        context = f"import ssl; c = ssl.create_default_context(cafile={ca_file!r}); {unnamed}"
        script = context + script.replace("timeout=5", "timeout=5, context=c")
    return argv("/usr/bin/python3", "-c", script)


def probes(health_url: str, units: Sequence[str], ca_file: str = "") -> Sequence[str]:
    """Return the commands for its health report, its import errors, and its units' starts."""
    starts = argv("systemctl", "show", "--timestamp=unix", "--property=Id,ActiveEnterTimestamp", *units)
    return (report(health_url, ca_file, loopback=True), import_errors(), starts)


def assess(answers: Sequence[Result]) -> Health:
    """Return healthy if its processes have a heartbeat, and it can import all DAGs."""
    report, errors, starts = answers
    if not report.ok:
        return Health(False, "does not answer")
    if not errors.ok:
        return Health(False, "cannot read its metadata: PostgreSQL does not answer")
    processes = _processes(json.loads(report.text), starts.text)
    ready = bool(processes) and all(status == "healthy" for status in processes.values())
    reasons = json.loads(errors.text)
    states = ", ".join(f"{name} {status}" for name, status in processes.items()) or "its report has no process"
    return Health(
        ready and not reasons, "; ".join([states, *reasons]), {"processes": processes, "import_errors": reasons}, ready
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
