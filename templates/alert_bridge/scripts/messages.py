"""The text of a message about an incident, from the JSON of a webhook of Alertmanager."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

_LISTED = 10  # alerts in one message
_LONGEST = 1000  # characters of a line
_RUNNING = "0001-01-01"  # start of `endsAt` of an open alert


@dataclass(frozen=True)
class Message:
    """A message; `over` is True for the end of an incident. `payload` is the JSON that it comes from."""

    title: str
    text: str
    over: bool
    payload: Mapping[str, Any]


def message_of(payload: Mapping[str, Any], lab: str) -> Message:
    """Return the message for a payload: the open alerts, or all of them at the end of the incident."""
    over = payload["status"] == "resolved"
    alerts = [alert for alert in payload["alerts"] if over or alert["status"] == "firing"]
    summaries = list(dict.fromkeys(_summary(alert) for alert in alerts)) or ["incident"]
    more = f" and {len(summaries) - 1} more" if len(summaries) > 1 else ""
    title = f"[{lab}] {'Over: ' if over else ''}{summaries[0]}{more}"
    parts = ["\n".join(_lines(alert, over)) for alert in alerts[:_LISTED]]
    if len(alerts) > _LISTED:
        parts.append(f"and {len(alerts) - _LISTED} more")
    return Message(title, "\n\n".join(parts), over, payload)


def is_critical(payload: Mapping[str, Any]) -> bool:
    """Return True if one of the alerts is critical."""
    return any(alert["labels"].get("severity") == "critical" for alert in payload["alerts"])


def _summary(alert: Mapping[str, Any]) -> str:
    return _line(alert["annotations"].get("summary") or alert["labels"].get("alertname") or "incident")


def _lines(alert: Mapping[str, Any], over: bool) -> Iterator[str]:
    labels, notes = alert["labels"], alert["annotations"]
    yield f"{_line(labels.get('alertname', 'Alert'))}: {_summary(alert)}"
    start = _time(alert["startsAt"])
    ended = str(alert.get("endsAt", _RUNNING))
    if over and not ended.startswith(_RUNNING):
        end = _time(ended)
        yield f"From {_shown(start)} to {_shown(end)}, {_duration((end - start).total_seconds())}"
        return
    yield f"Since {_shown(start)}"
    if notes.get("details"):
        yield _line(notes["details"])
    if notes.get("command"):
        yield f"Run: {_line(notes['command'])}"
    if notes.get("runbook"):
        yield f"Help: {_line(notes['runbook'])}"


def _line(text: object) -> str:
    line = " ".join(str(text).split())[:_LONGEST]
    return "".join(each if each.isprintable() else "?" for each in line)  # no receiver takes the others


def _time(text: str) -> datetime:
    """Parse a time, also one with nanoseconds."""
    seconds, _, rest = text.partition(".")
    zone = rest.lstrip("0123456789") if rest else ""
    return datetime.fromisoformat((seconds + zone).replace("Z", "+00:00")).astimezone(UTC)


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    parts = ((minutes // 1440, "d"), (minutes // 60 % 24, "h"), (minutes % 60, "min"))
    shown: Sequence[str] = [f"{number} {unit}" for number, unit in parts if number]
    return " ".join(shown) or "less than a minute"
