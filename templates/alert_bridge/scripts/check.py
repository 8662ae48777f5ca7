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
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import Any

import settings

_METRIC = re.compile(
    r'homelab_pipeline_(\w+)\{pipeline="([^"]+)",\w+="([^"]*)"\} ([0-9]+(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)$',
    re.MULTILINE,
)
_RECORD = 1 << 14  # bytes that the record has on the disk
_EXPLAINED = {"PipelineLate": ("PipelineFailed",), "DataStale": ("PipelineFailed", "PipelineLate")}
Incident = dict[str, Any]


def incidents(
    found: Mapping[str, Any], metrics: str, watched: float, now: float
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the key and the alert of each incident; `watched` is the time of the last sign of life."""
    values = _values(metrics)
    for pipeline, limit in found["pipelines"].items():
        details = values.get(("last_error_info", pipeline), (0, ""))[1]
        success = values.get(("last_build_success", pipeline))
        if success and not success[0]:
            text = f"The last build of the pipeline {pipeline} failed"
            yield _incident("PipelineFailed", "critical", text, pipeline=pipeline, details=details)
        if not limit:
            continue
        stream = found.get("streams", {}).get(pipeline)
        newest, longest = ("stream_newest_row", stream) if stream else ("newest_row", limit)
        for name, metric, allowed, severity, text in (
            ("PipelineLate", "published", limit, "critical", "The data of the pipeline {} is {} old"),
            ("DataStale", newest, longest, "warning", "The newest row of the pipeline {} came {} ago"),
        ):
            moment = values.get((f"{metric}_timestamp_seconds", pipeline))
            if moment and now - moment[0] > allowed:
                age = f"{(now - moment[0]) / 3600:.1f} h"
                yield _incident(name, severity, text.format(pipeline, age), pipeline=pipeline)
    limit = found["watchdog"]
    if limit and now - watched > limit:
        text = f"Alertmanager has given no sign of life for {(now - watched) / 60:.0f} min: no other alert is sent"
        yield _incident("MonitoringDown", "critical", text)


def unread(found: Mapping[str, Any], metrics: str) -> Collection[str]:
    """Return the pipelines without metrics: their incidents may last."""
    return set(found["pipelines"]) - {pipeline for _, pipeline in _values(metrics)}


def _values(metrics: str) -> Mapping[tuple[str, str], tuple[float, str]]:
    """Return the value and the text of each metric by its name and its pipeline; other lines are left out."""
    return {(name, pipeline): (float(value), text) for name, pipeline, text, value in _METRIC.findall(metrics)}


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


def update(
    state: dict[str, Incident], found: Mapping[str, Mapping[str, Any]], now: str, unread: Collection[str] = ()
) -> None:
    """Begin and end the incidents of the state.

    One that an open incident explains does not begin; one of an `unread` pipeline does not end.
    """
    for key, alert in found.items():
        name, _, pipeline = key.partition(" ")
        explained = any(f"{cause} {pipeline}" in found for cause in _EXPLAINED.get(name, ()))
        if key in state and not state[key]["endsAt"]:
            state[key] |= alert
        elif not explained:
            state[key] = {
                **alert,
                "startsAt": now,
                "endsAt": "",
                "begin_sent": _waiting(state.get(key)),
                "end_sent": [],
            }
    for key, incident in state.items():
        if key not in found and key.partition(" ")[2] not in unread and not incident["endsAt"]:
            incident["endsAt"] = now


def _waiting(incident: Incident | None) -> list[str]:
    """Return the receivers that do not have the end of an incident yet: for them, it continues if it returns."""
    return [name for name in incident["begin_sent"] if name not in incident["end_sent"]] if incident else []


class Delivery:
    """The delivery of the open incidents to all receivers in parallel.

    Each message that a receiver took is recorded in the file before the next one is sent: a run that is ended early
    repeats none. Where nothing can be recorded, each run would repeat them: they are sent in one minute of an hour.
    """

    def __init__(self, state: dict[str, Incident], found: Mapping[str, Any], file: Path) -> None:
        self._state, self._found, self._file = state, found, file
        self._lock = Lock()

    def run(self, minute: int) -> bool:
        """Send the messages that the receivers do not have yet, and forget the incidents whose end they all have.

        Return False if nothing can be recorded; `minute` is that of the hour.
        """
        if not self._save() and minute:
            return False
        receivers = self._found["receivers"]
        with ThreadPoolExecutor(len(receivers)) as pool:
            list(pool.map(self._send_to, receivers))
        for key, incident in list(self._state.items()):
            if incident["endsAt"] and not set(_waiting(incident)) & set(receivers):
                del self._state[key]
        return self._save()

    def _send_to(self, name: str) -> None:
        """Send to one receiver until it fails; the next run begins with the other incidents."""
        for key, incident in list(self._state.items()):
            has_begin, is_over = name in incident["begin_sent"], bool(incident["endsAt"])
            if has_begin != is_over or name in incident["end_sent"]:
                continue
            status = _post(self._found, name, incident)
            with self._lock:
                if status == HTTPStatus.OK:
                    incident["end_sent" if is_over else "begin_sent"].append(name)
                    self._save()
                elif status != HTTPStatus.CONFLICT:  # the hours without messages
                    self._state[key] = self._state.pop(key)
                    return

    def _save(self) -> bool:
        """Replace the record; on a full disk, write to the space that it has. Return False if that fails as well."""
        text, new = f"{json.dumps(self._state, indent=1)}\n".encode().ljust(_RECORD), Path(f"{self._file}.new")
        try:
            try:
                new.write_bytes(text)
                os.replace(new, self._file)
            except OSError:
                new.unlink(missing_ok=True)
                with self._file.open("r+b") as file:
                    file.write(text)
                    file.truncate()
        except OSError as error:
            print(f"cannot write {self._file}, messages are sent again once an hour: {error}", file=sys.stderr)
            return False
        return True


def _post(found: Mapping[str, Any], receiver: str, incident: Incident) -> int:
    """Send a message over the bridge of this container; return the bridge's status, or 0 if it does not answer."""
    status = "resolved" if incident["endsAt"] else "firing"
    details = {key: value for key, value in incident.items() if key not in ("begin_sent", "end_sent")}
    alert = {"status": status, **details}
    if not incident["endsAt"]:
        del alert["endsAt"]
    body = json.dumps({"version": "4", "status": status, "alerts": [alert]}).encode()
    url = f"http://{found['address']}:{found['port']}/send/{receiver}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, body, timeout=90) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.CONFLICT:
            print(f"{receiver}: {error.read().decode(errors='replace')}", file=sys.stderr)
        return error.code
    except (OSError, HTTPException) as error:
        print(f"the bridge does not answer: {error}", file=sys.stderr)
        return 0


def read_state(file: Path) -> dict[str, Incident]:
    """Return the recorded incidents; none if the file is damaged, as after a power failure."""
    try:
        found: dict[str, Incident] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        print(f"{file} is damaged, open incidents are sent again: {error}", file=sys.stderr)
        return {}
    return found


def main() -> None:
    """Run once; see the module's docstring."""
    found, file = settings.read(settings.FILE), settings.STATE / "incidents.json"
    sign = settings.STATE / "watchdog"
    if not sign.exists():
        sign.touch()  # the time from which one is missing
    state, metrics = read_state(file), sys.stdin.read()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    begun = dict(incidents(found, metrics, sign.stat().st_mtime, time.time()))
    update(state, begun, now, unread(found, metrics))
    if not Delivery(state, found, file).run(time.localtime().tm_min):
        sys.exit(1)


if __name__ == "__main__":
    main()
