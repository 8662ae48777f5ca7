"""Schedules: a preset such as `@hourly`, or the five fields of cron."""

from __future__ import annotations

import re

from homelab.inventory.errors import did_you_mean

PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # days of each month, in a leap year
PATTERN = rf"{'|'.join(PRESETS)}|[^@\s]\S*(\s+\S+){{4}}"  # the structure alone; error_in() checks the fields


def error_in(text: str) -> str | None:
    """Return the error in a schedule, or None."""
    if text.startswith("@"):
        return None if text in PRESETS else f"unknown preset {text!r}; {did_you_mean(text, PRESETS)}"
    parts = text.split()
    if len(parts) != len(_FIELDS) or not text.isascii():
        return f"must be {', '.join(PRESETS)}, or cron's five fields (minute hour day month weekday), not {text!r}"
    for part, (name, low, high, names) in zip(parts, _FIELDS, strict=True):
        if not all(_fits(item, low, high, names) for item in part.split(",")):
            return f"cron's {name} must be within {low} to {high}, with *, a-b, */n and lists, not {part!r}"
        if step := next((step for step in map(_step, part.split(",")) if step > high - low), 0):
            return f"cron's {name} has the step {step}, but its values are only {low} to {high}: {part!r}"
        if same := next((item for item in part.split(",") if _is_one_value(item, low, names)), None):
            return f"cron's {name} {same!r} means all values to Airflow: write only {same.partition('-')[0]!r}"
    return _never(*parts[2:])


def _never(days: str, months: str, weekdays: str) -> str | None:
    """Return the error in a schedule without any date, such as 31 February, or None.

    A weekday that is not `*` counts in addition to the days of the month. In a list, `*` makes the others useless.
    """
    if "*" not in weekdays.split(",") or "*" in days.split(","):
        return None
    first = min(_lowest(item) for item in days.split(","))
    _, low, high, names = _FIELDS[3]
    named = {month for item in months.split(",") for month in _values(item, low, high, names)}
    if any(first <= _LONGEST[month - 1] for month in named):
        return None
    return f"cron's day of the month {days!r} does not exist in month {months!r}"


def _lowest(item: str) -> int:
    first = item.partition("/")[0].partition("-")[0]
    return 1 if first == "*" else int(first)


def _values(item: str, low: int, high: int, names: tuple[str, ...]) -> range:
    """Return the values of a valid item; with a step and without an end, up to the highest one."""
    span, _, step = item.partition("/")
    first, _, last = span.partition("-")
    start = low if first == "*" else _number(first, low, names)
    end = _number(last, low, names) if last else high if first == "*" or step else start
    return range(start, end + 1, int(step or 1))


def _is_one_value(item: str, low: int, names: tuple[str, ...]) -> bool:
    """Return True for a range from a value to itself, such as `5-5`."""
    first, dash, last = item.partition("/")[0].partition("-")
    return bool(dash) and _number(first, low, names) == _number(last, low, names)


def _step(item: str) -> int:
    return int(item.partition("/")[2] or 1)


def _fits(item: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    match = re.fullmatch(r"(?:\*|(\w+)(?:-(\w+))?)(?:/([0-9]+))?", item)
    if match is None or (match[3] is not None and int(match[3]) < 1):
        return False
    ends = [_number(end, low, names) for end in match.group(1, 2) if end is not None]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isascii() and text.isdigit() else -1
