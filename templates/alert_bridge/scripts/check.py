"""Find incidents without Prometheus, and send each of them and its end once.

Standard input has the metrics of the pipelines, in Prometheus' format. Another incident is an Alertmanager without a
sign of life. incidents.json has the open incidents with the receivers that took their message: the next run sends the
others again.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import settings

_METRIC = re.compile(r'homelab_pipeline_(\w+)\{pipeline="([^"]+)",\w+="([^"]*)"\} ([0-9.e+]+)')
_EXPLAINED = {"PipelineLate": ("PipelineFailed",), "DataStale": ("PipelineFailed", "PipelineLate")}
Incident = dict[str, Any]


def incidents(
    found: Mapping[str, Any], metrics: str, watched: float, now: float
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the key and the alert of each incident; `watched` is the time of the last sign of life."""
    values = {(name, pipeline): (float(value), text) for name, pipeline, text, value in _METRIC.findall(metrics)}
    for pipeline, limit in found["pipelines"].items():
        details = values.get(("last_error_info", pipeline), (0, ""))[1]
        success = values.get(("last_build_success", pipeline))
        if success and not success[0]:
            text = f"The last build of the pipeline {pipeline} failed"
            yield _incident("PipelineFailed", "critical", text, pipeline=pipeline, details=details)
        if not limit:
            continue
        for name, metric, severity, text in (
            ("PipelineLate", "published_timestamp_seconds", "critical", "The data of the pipeline {} is {} old"),
            ("DataStale", "newest_row_timestamp_seconds", "warning", "The newest row of the pipeline {} came {} ago"),
        ):
            moment = values.get((metric, pipeline))
            if moment and now - moment[0] > limit:
                age = f"{(now - moment[0]) / 3600:.1f} h"
                yield _incident(name, severity, text.format(pipeline, age), pipeline=pipeline)
    limit = found["watchdog"]
    if limit and now - watched > limit:
        text = f"Alertmanager has given no sign of life for {(now - watched) / 60:.0f} min: no other alert is sent"
        yield _incident("MonitoringDown", "critical", text)


def _incident(
    name: str, severity: str, summary: str, pipeline: str = "", details: str = ""
) -> tuple[str, Mapping[str, Any]]:
    labels = {"alertname": name, "severity": severity, **({"pipeline": pipeline} if pipeline else {})}
    page = re.sub("(?<=[a-z])(?=[A-Z])", "-", name).lower()
    notes = {
        "summary": summary,
        "details": details,
        "command": f"homelab pipeline status {pipeline}" if pipeline else "homelab status",
        "runbook": f"docs/how-to/runbooks/{page}.md",
    }
    return f"{name} {pipeline}".strip(), {"labels": labels, "annotations": {k: v for k, v in notes.items() if v}}


def update(state: dict[str, Incident], found: Mapping[str, Mapping[str, Any]], now: str) -> None:
    """Begin and end the incidents of the state; the consequences of an open incident do not begin."""
    for key, alert in found.items():
        name, _, pipeline = key.partition(" ")
        explained = any(f"{cause} {pipeline}" in found for cause in _EXPLAINED.get(name, ()))
        if key in state and not state[key]["endsAt"]:
            state[key] |= alert
        elif not explained:
            state[key] = {**alert, "startsAt": now, "endsAt": "", "begin_sent": [], "end_sent": []}
    for key, incident in state.items():
        if key not in found and not incident["endsAt"]:
            incident["endsAt"] = now


def deliver(state: dict[str, Incident], found: Mapping[str, Any]) -> None:
    """Send the missing messages to each receiver; remove an incident after all messages about its end."""
    for key, incident in list(state.items()):
        for name in found["receivers"]:
            if not incident["endsAt"] and name not in incident["begin_sent"] and _post(found, name, incident):
                incident["begin_sent"].append(name)
            if incident["endsAt"] and name in incident["begin_sent"] and name not in incident["end_sent"]:
                incident["end_sent"] += [name] if _post(found, name, incident) else []
        waiting = set(incident["begin_sent"]) & set(found["receivers"]) - set(incident["end_sent"])
        if incident["endsAt"] and not waiting:
            del state[key]


def _post(found: Mapping[str, Any], receiver: str, incident: Incident) -> bool:
    """Send a message over the bridge of this container; return True if the receiver took it."""
    status = "resolved" if incident["endsAt"] else "firing"
    details = {key: value for key, value in incident.items() if key not in ("begin_sent", "end_sent")}
    alert = {"status": status, **details}
    if not incident["endsAt"]:
        del alert["endsAt"]
    body = json.dumps({"version": "4", "status": status, "alerts": [alert]}).encode()
    url = f"http://{found['address']}:{found['port']}/send/{receiver}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, body, timeout=90):
            return True
    except urllib.error.HTTPError as error:
        if error.code != 409:  # the hours without messages
            print(f"{receiver}: {error.read().decode(errors='replace')}", file=sys.stderr)
    except OSError as error:
        print(f"the bridge does not answer: {error}", file=sys.stderr)
    return False


def main() -> None:
    """Run once; see the module's docstring."""
    found, file = settings.read(settings.FILE), settings.STATE / "incidents.json"
    sign = settings.STATE / "watchdog"
    if not sign.exists():
        sign.touch()  # the watch begins now
    state: dict[str, Incident] = json.loads(file.read_text()) if file.exists() else {}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    update(state, dict(incidents(found, sys.stdin.read(), sign.stat().st_mtime, time.time())), now)
    try:
        deliver(state, found)
    finally:
        new = Path(f"{file}.new")
        new.write_text(json.dumps(state, indent=1) + "\n")
        os.replace(new, file)


if __name__ == "__main__":
    main()
