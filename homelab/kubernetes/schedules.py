"""Schedules in the form that Kubernetes takes."""

from __future__ import annotations

from collections.abc import Iterator

_SUNDAY = "7"  # of cron, which Kubernetes only takes as 0


def cron(schedule: str) -> str:
    """Return a valid schedule of the inventory for a CronJob: a preset, or five fields with Sunday as 0."""
    *fields, weekdays = schedule.split()
    return " ".join([*fields, ",".join(part for item in weekdays.split(",") for part in _weekdays(item))])


def _weekdays(item: str) -> Iterator[str]:
    span, slash, step = item.partition("/")
    first, _, last = span.partition("-")
    if first == _SUNDAY:
        yield "0"
    elif last == _SUNDAY and first.isdigit():
        yield from (str(day % 7) for day in range(int(first), 8, int(step or 1)))
    else:
        yield f"{span}{slash}{step}"
